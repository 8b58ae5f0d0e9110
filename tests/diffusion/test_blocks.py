"""Patterns against the rules of the papers, spelt out token by token."""

from __future__ import annotations

import pytest
import torch

from unmask.diffusion import blocks
from unmask.types import AttentionSpec

DOCUMENTS = [[0, 0, 0, 0, 1, 1, 1, 2, 2, -1], [-1, -1, 0, 0, 0, 0, 0, 0, 0, 0], [-1] * 10]
POSITIONS = [[0, 1, 2, 3, 0, 1, 2, 0, 1, 0], [0, 1, 0, 1, 2, 3, 4, 5, 6, 7], list(range(10))]


def table(rule, documents: list[list[int]] = DOCUMENTS) -> list[list[list[bool]]]:
    """The pattern by `rule(row, query, key)` between real tokens of one document."""
    rows = []
    for b, document in enumerate(documents):
        grid = []
        for q, of_query in enumerate(document):
            if of_query < 0:
                seen = [of_key >= 0 for of_key in document]
            else:
                seen = [of_key == of_query and rule(b, q, k) for k, of_key in enumerate(document)]
            if not any(seen):
                seen[q] = True
            grid.append(seen)
        rows.append(grid)
    return rows


def test_documents_see_themselves():
    spec = blocks.documents(torch.tensor(DOCUMENTS))
    assert blocks.allowed(spec, 3, 10).tolist() == table(lambda b, q, k: True)


def test_causal_documents_look_back():
    spec = blocks.causal(torch.tensor(DOCUMENTS))
    assert blocks.allowed(spec, 3, 10).tolist() == table(lambda b, q, k: k <= q)


def test_a_window_limits_the_distance():
    spec = AttentionSpec(document_BL=torch.tensor(DOCUMENTS), window=2)
    seen = blocks.allowed(spec, 3, 10)
    assert seen.tolist() == table(lambda b, q, k: abs(q - k) <= 2)
    assert blocks.allowed(blocks.bidirectional(window=0), 1, 3).tolist() == [torch.eye(3).bool().tolist()]


@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_blocks_see_themselves_and_what_is_before(size: int):
    positions_BL = torch.tensor(POSITIONS)
    spec = blocks.block_causal(blocks.block_ids(positions_BL, size), torch.tensor(DOCUMENTS))
    expected = table(lambda b, q, k: POSITIONS[b][k] // size <= POSITIONS[b][q] // size)
    assert blocks.allowed(spec, 3, 10).tolist() == expected


def test_everybody_sees_everybody_by_default():
    assert blocks.allowed(blocks.bidirectional(), 2, 4).all()
    assert blocks.allowed(blocks.causal(), 1, 3).tolist() == [[[1, 0, 0], [1, 1, 0], [1, 1, 1]]]


def test_padding_is_seen_by_nobody():
    valid_BL = torch.tensor([[True, True, False], [False, True, True], [False, False, False]])
    seen = blocks.allowed(blocks.padded(valid_BL), 3, 3)
    assert seen[:2].tolist() == valid_BL[:2, None, :].expand(2, 3, 3).tolist()
    assert seen[2].tolist() == torch.eye(3).bool().tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_two_streams(size: int):
    """Noisy sees its own noisy block and earlier clean blocks; clean sees clean blocks up to its own."""

    def rule(b: int, q: int, k: int) -> bool:
        query_block, key_block = POSITIONS[b][q % 10] // size, POSITIONS[b][k % 10] // size
        match ("noisy" if q < 10 else "clean", "noisy" if k < 10 else "clean"):
            case ("noisy", "noisy"):
                return query_block == key_block
            case ("noisy", "clean"):
                return query_block > key_block
            case ("clean", "clean"):
                return query_block >= key_block
        return False

    spec = blocks.two_stream(blocks.block_ids(torch.tensor(POSITIONS), size), torch.tensor(DOCUMENTS))
    assert blocks.allowed(spec, 3, 20).tolist() == table(rule, [row + row for row in DOCUMENTS])


def test_two_streams_of_equal_blocks_use_a_quarter_of_the_area():
    size, length = 4, 64
    seen = blocks.allowed(blocks.two_stream(blocks.block_ids(torch.arange(length)[None], size)), 1, 2 * length)
    assert int(seen.sum()) == length * size + length**2  # training notes: L B + L^2/2 (1 - B/L) + L^2/2 (1 + B/L)


def test_noisy_views_share_the_clean_stream_and_do_not_see_each_other():
    """Two views of four tokens in blocks of two, then the clean tokens: each view sees what it would see alone."""
    block_BL, one = torch.tensor([[0, 0, 1, 1]]), blocks.two_stream(torch.tensor([[0, 0, 1, 1]]))
    stream_BL = torch.tensor([[0] * 4 + [2] * 4 + [1] * 4])
    seen = blocks.allowed(AttentionSpec("two_stream", block_BL=block_BL.repeat(1, 3), stream_BL=stream_BL), 1, 12)[0]
    alone = blocks.allowed(one, 1, 8)[0]
    for view in (range(4), range(4, 8)):
        columns = torch.tensor([*view, *range(8, 12)])
        assert torch.equal(seen[columns][:, columns], alone)
    assert not seen[:4, 4:8].any() and not seen[4:8, :4].any()


def test_blocks_may_start_at_the_end_of_the_prompt():
    positions_BL = torch.arange(8).expand(2, 8)
    assert blocks.block_ids(positions_BL, 3, start_B=torch.tensor([2, 3])).tolist() == [
        [-1, -1, 0, 0, 0, 1, 1, 1],
        [-1, -1, -1, 0, 0, 0, 1, 1],
    ]
    with pytest.raises(ValueError, match="at least 1 token"):
        blocks.block_ids(positions_BL, 0)


def test_positions_restart_with_each_document():
    assert blocks.document_positions(torch.tensor(DOCUMENTS)).tolist() == POSITIONS


def test_incomplete_patterns_are_refused():
    for kind in ("block_causal", "two_stream"):
        with pytest.raises(ValueError, match=f"{kind} pattern needs block_BL"):
            blocks.allowed(AttentionSpec(kind), 1, 4)
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="stream_BL"):
        blocks.allowed(AttentionSpec("two_stream", block_BL=ids), 1, 4)
    with pytest.raises(ValueError, match="no meaning between two streams"):
        blocks.allowed(AttentionSpec("two_stream", block_BL=ids, stream_BL=ids, window=3), 1, 4)
