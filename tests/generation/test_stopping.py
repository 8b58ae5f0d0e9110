from __future__ import annotations

import torch

from unmask.generation.canvas import continuation
from unmask.generation.stopping import cut, finished_B

MASK, STOP = 15, 7


def state(prompt: list[int], written: list[int]) -> bool:
    """Whether a row is finished; the mask's id stands for a position not yet written."""
    canvas = continuation([prompt, [1] * 9], len(written), MASK, "cpu")
    tokens = canvas.tokens_BL.clone()
    tokens[0, len(prompt) : len(prompt) + len(written)] = torch.tensor(written)
    write = canvas.is_masked_BL & (tokens != MASK)
    return bool(finished_B(canvas.apply(write, tokens, None, MASK), (STOP,))[0])


def test_a_stop_token_with_a_gap_before_it_does_not_finish_a_row() -> None:
    assert not state([1, 2], [3, MASK, STOP, MASK])
    assert not state([1, 2], [MASK, STOP, STOP, STOP])


def test_a_stop_token_with_everything_before_it_does() -> None:
    assert state([1, 2], [3, 4, STOP, MASK])
    assert state([1, 2], [STOP, MASK, MASK, MASK])
    assert state([], [STOP, MASK, MASK, MASK])


def test_the_earliest_stop_token_counts() -> None:
    assert state([1], [3, STOP, MASK, STOP])


def test_stop_tokens_of_the_prompt_do_not_count() -> None:
    assert not state([STOP, 1, STOP], [3, 4, MASK, MASK])


def test_cut() -> None:
    assert cut([1, STOP, 2, STOP], (STOP,)) == ([1], True)
    assert cut([1, 2], (STOP,)) == ([1, 2], False)
    assert cut([], ()) == ([], False)
