from __future__ import annotations

import pytest
import torch

from unmask.generation.canvas import blanks, continuation, joined

MASK = 15


def test_masks_stand_directly_after_each_prompt_and_padding_is_no_mask() -> None:
    canvas = continuation([[1, 2, 3], [4]], 2, MASK, "cpu")
    assert canvas.tokens_BL[0].tolist() == [1, 2, 3, MASK, MASK]
    assert canvas.tokens_BL[1, :3].tolist() == [4, MASK, MASK]
    assert canvas.is_masked_BL.tolist() == [[False, False, False, True, True], [False, True, True, False, False]]
    # padding is given, too: it is never written
    assert canvas.given_BL.tolist() == [[True, True, True, False, False], [True, False, False, True, True]]


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


@pytest.mark.parametrize("firsts", [(3, 1), (2, 2)])
def test_windows_are_read_and_written_back(firsts: tuple[int, int]) -> None:
    canvas = continuation([[1, 2, 3], [4]], 2, MASK, "cpu").widened(8, MASK)
    window = canvas.window((0, 1), firsts, 4)
    for row, first in enumerate(firsts):
        for name in ("tokens_BL", "is_masked_BL", "given_BL"):
            assert torch.equal(getattr(window, name)[row], getattr(canvas, name)[row, first : first + 4])
    written = window.apply(window.is_masked_BL, torch.full_like(window.tokens_BL, 9), None, MASK)
    canvas.write((0, 1), firsts, written)
    if firsts == (3, 1):
        assert canvas.cut().tokens_BL.tolist() == [[1, 2, 3, 9, 9], [4, 9, 9, MASK, MASK]]
        assert not canvas.is_masked_BL.any()
    else:
        assert canvas.is_masked_BL.nonzero().tolist() == [[1, 1]]


def test_rows_taken_apart_and_joined_again_are_in_order() -> None:
    canvas = continuation([[1, 2, 3], [4], [5, 6]], 2, MASK, "cpu")
    whole = joined([canvas.take([2, 0]), canvas.take([1]).cut()], MASK)
    assert whole.rows == (0, 1, 2) and whole.ends == canvas.ends
    assert torch.equal(whole.tokens_BL, canvas.tokens_BL) and torch.equal(whole.given_BL, canvas.given_BL)


def test_given_text_is_never_written_nor_masked() -> None:
    canvas = continuation([[1, 2]], 2, MASK, "cpu")
    everywhere = torch.ones_like(canvas.is_masked_BL)
    written = canvas.apply(everywhere, torch.full_like(canvas.tokens_BL, 9), None, MASK)
    assert written.tokens_BL.tolist() == [[1, 2, 9, 9]]
    back = written.apply(~everywhere, written.tokens_BL, everywhere, MASK)
    assert back.tokens_BL.tolist() == [[1, 2, MASK, MASK]] and back.is_masked_BL.tolist() == [
        [False, False, True, True]
    ]
