"""Rows become batches by policy; expected tensors are written out by hand."""

from __future__ import annotations

from unmask.data.collate import Collator, Visit

EOS, PAD = 9, 8
ROWS = [
    {"input_ids": [1, 2, 3], "may_noise": [False, True, True]},
    {"input_ids": [4, 5, 6, 7, 1], "may_noise": [False, False, True, True, True]},
]


def visits(padded: int = 5, *, first: int = 3, bins: tuple = (None, None)) -> list:
    return [
        (Visit(10 + i, 20 + i, 2, length, padded, bin=number), row)
        for i, (length, row, number) in enumerate(zip((first, 5), ROWS, bins, strict=True))
    ]


def collate(**settings: object) -> Collator:
    return Collator(eos_token_id=EOS, pad_token_id=PAD, **settings)  # type: ignore[arg-type]


def test_eos_padding_is_seen_learned_and_reaches_as_far_as_the_update_says() -> None:
    batch = collate(padding="eos")(visits(padded=7))
    assert batch.x0_BL.tolist() == [[1, 2, 3, EOS, EOS, EOS, EOS], [4, 5, 6, 7, 1, EOS, EOS]]
    assert batch.may_noise_BL.tolist() == [[False, *[True] * 6], [False, False, *[True] * 5]]
    assert batch.attention is None
    assert batch.sample_BL.tolist() == [[0] * 7, [1] * 7]


def test_no_learned_padding_is_invisible() -> None:
    batch = collate(padding="none")(visits())
    assert batch.x0_BL.tolist() == [[1, 2, 3, PAD, PAD], [4, 5, 6, 7, 1]]
    assert batch.may_noise_BL[0].tolist() == [False, True, True, False, False]
    assert batch.attention is not None
    assert batch.attention.document_BL is not None
    assert batch.attention.document_BL.tolist() == [[0, 0, 0, -1, -1], [0, 0, 0, 0, 0]]
    assert not batch.attention.packed


def test_block_padding_is_learned_to_the_edge_of_the_block() -> None:
    batch = collate(padding="block", block_size=4)(visits())
    assert batch.x0_BL.tolist() == [[1, 2, 3, EOS, *[PAD] * 4], [4, 5, 6, 7, 1, EOS, EOS, EOS]]
    assert batch.may_noise_BL.sum(1).tolist() == [3, 6]
    assert batch.sample_BL[0].tolist() == [0, 0, 0, 0, -1, -1, -1, -1]


def test_max_length_padding_is_learned_to_the_end() -> None:
    batch = collate(padding="max_length", max_length=6)(visits())
    assert batch.x0_BL.tolist() == [[1, 2, 3, EOS, EOS, EOS], [4, 5, 6, 7, 1, EOS]]
    assert batch.may_noise_BL.sum(1).tolist() == [5, 4]


def test_samples_of_a_bin_are_laid_end_to_end_as_documents() -> None:
    batch = collate(padding="none")(visits(bins=(7, 7)))
    assert batch.x0_BL.tolist() == [[1, 2, 3, 4, 5, 6, 7, 1]]
    assert batch.sample_BL.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1]]
    assert batch.positions_BL is not None
    assert batch.positions_BL.tolist() == [[0, 1, 2, 0, 1, 2, 3, 4]]
    assert batch.attention is not None
    assert batch.attention.packed
    assert batch.keys.row_S.tolist() == [20, 21]


def test_packed_rows_have_their_learned_padding_inside_and_one_width() -> None:
    one, two = visits(padded=6, bins=(7, 7))
    batch = collate(padding="eos", width=20)([one, two, (Visit(12, 22, 2, 2, 4, bin=8), {"input_ids": [3, 3]})])
    assert batch.x0_BL.tolist() == [
        [1, 2, 3, EOS, EOS, EOS, 4, 5, 6, 7, 1, EOS, *[PAD] * 8],
        [3, 3, EOS, EOS, *[PAD] * 16],
    ]
    assert batch.sample_BL.tolist() == [[*[0] * 6, *[1] * 6, *[-1] * 8], [*[2] * 4, *[-1] * 16]]
    assert batch.may_noise_BL.sum(1).tolist() == [2 + 3 + 3 + 1, 4]
    assert batch.attention is not None
    assert batch.attention.document_BL is not None
    assert batch.attention.document_BL[0].tolist() == [*[0] * 6, *[1] * 6, *[-1] * 8]


def test_packed_rows_of_several_documents_keep_them_apart() -> None:
    row = {"input_ids": [1, 2, 3], "document": [0, 0, 1]}
    batch = collate(padding="none")([(Visit(i, i, 0, 3, 3, bin=0), row) for i in range(2)])
    assert batch.attention is not None
    assert batch.attention.document_BL is not None
    assert batch.attention.document_BL.tolist() == [[0, 0, 1, 2, 2, 3]]
    assert batch.positions_BL is not None
    assert batch.positions_BL.tolist() == [[0, 1, 0, 0, 1, 0]]


def test_documents_of_a_packed_corpus_get_positions_of_their_own() -> None:
    row = {"input_ids": [1, 2, 3, 4, 5], "document": [0, 0, 1, 1, 1]}
    batch = collate(padding="none")([(Visit(0, 0, 0, 5, 5), row), (Visit(1, 1, 0, 3, 3), row)])
    assert batch.positions_BL is not None
    assert batch.positions_BL[0].tolist() == [0, 1, 0, 1, 2]
    assert batch.may_noise_BL.tolist() == [[True] * 5, [True, True, True, False, False]]
    assert batch.attention is not None
    assert batch.attention.document_BL is not None
    assert batch.attention.document_BL[1].tolist() == [0, 0, 1, -1, -1]


def test_a_cut_row_ends_where_the_visit_says() -> None:
    batch = collate(padding="none")(visits(first=2))
    assert batch.x0_BL[0].tolist() == [1, 2, PAD, PAD, PAD]


def test_rows_that_fill_up_a_batch_are_not_learned() -> None:
    extra = (Visit(3, 0, 0, 3, 5, counted=False), ROWS[0])
    batch = collate(padding="eos")([*visits(), extra])
    assert batch.may_noise_BL.any(1).tolist() == [True, True, False]


def test_keys_are_the_visits() -> None:
    batch = collate()(visits())
    assert batch.keys.visit_S.tolist() == [10, 11]
    assert batch.keys.row_S.tolist() == [20, 21]
    assert batch.keys.epoch_S.tolist() == [2, 2]
