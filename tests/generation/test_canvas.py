from __future__ import annotations

import pytest
import torch

from unmask.generation.canvas import blanks, continuation

MASK = 15


def test_masks_stand_directly_after_each_prompt_and_padding_is_no_mask() -> None:
    canvas = continuation([[1, 2, 3], [4]], 2, MASK, "cpu")
    assert canvas.tokens_BL[0].tolist() == [1, 2, 3, MASK, MASK]
    assert canvas.tokens_BL[1, :3].tolist() == [4, MASK, MASK]
    assert canvas.is_masked_BL.tolist() == [[False, False, False, True, True], [False, True, True, False, False]]
    assert canvas.given_BL.tolist() == [[True, True, True, False, False], [True, False, False, False, False]]


def test_no_attention_pattern_without_padding() -> None:
    assert continuation([[1, 2], [3, 4]], 2, MASK, "cpu").attention() is None


def test_padding_is_invisible() -> None:
    spec = continuation([[1, 2, 3], [4]], 2, MASK, "cpu").attention()
    assert spec is not None and spec.document_BL is not None
    assert spec.document_BL.tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, -1, -1]]


def test_a_given_mask_token_is_text() -> None:
    canvas = continuation([[MASK, 1]], 1, MASK, "cpu")
    assert canvas.is_masked_BL.tolist() == [[False, False, True]]


def test_blanks_hide_what_stood_there() -> None:
    canvas = blanks([[1, 2, 3]], [[False, True, False]], MASK, "cpu")
    assert canvas.tokens_BL.tolist() == [[1, MASK, 3]]
    assert canvas.starts == (0,) and canvas.ends == (3,)


@pytest.mark.parametrize("prompts", [[], [[]], [[], [1]]])
def test_empty_prompts_and_no_prompts(prompts: list[list[int]]) -> None:
    canvas = continuation(prompts, 3, MASK, "cpu")
    assert canvas.is_masked_BL.sum(1).tolist() == [3] * len(prompts)


def test_windows_follow_each_row() -> None:
    canvas = continuation([[1, 2, 3], [4]], 5, MASK, "cpu")
    last = canvas.window_BL(1, 4)
    assert [row.nonzero()[:, 0].tolist() for row in last] == [[7], [5]]
    assert not canvas.window_BL(2, 4).any()


def test_rows_taken_out_and_put_back() -> None:
    canvas = continuation([[1, 2, 3], [4], [5, 6]], 2, MASK, "cpu")
    part = canvas.take([1, 2])
    assert part.rows == (1, 2) and part.tokens_BL.shape == (2, 4)
    written = part.apply(part.is_masked_BL, torch.full_like(part.tokens_BL, 9), None, MASK)
    whole = canvas.put(part.rows, written)
    assert whole.tokens_BL[0].tolist() == [1, 2, 3, MASK, MASK]
    assert whole.tokens_BL[1, :3].tolist() == [4, 9, 9] and whole.tokens_BL[2, :4].tolist() == [5, 6, 9, 9]
    assert whole.is_masked_BL.sum(1).tolist() == [2, 0, 0]


def test_given_text_is_never_written_nor_masked() -> None:
    canvas = continuation([[1, 2]], 2, MASK, "cpu")
    everywhere = torch.ones_like(canvas.is_masked_BL)
    written = canvas.apply(everywhere, torch.full_like(canvas.tokens_BL, 9), None, MASK)
    assert written.tokens_BL.tolist() == [[1, 2, 9, 9]]
    back = written.apply(~everywhere, written.tokens_BL, everywhere, MASK)
    assert back.tokens_BL.tolist() == [[1, 2, MASK, MASK]] and back.is_masked_BL.tolist() == [
        [False, False, True, True]
    ]
