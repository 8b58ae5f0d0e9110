"""What of a long request is read: against the harness' own rolling windows, and toys worked by hand."""

from __future__ import annotations

import pytest

from unmask.evaluation.room import answer_room, fitted_pair, stretches


@pytest.mark.parametrize("limit", [2, 7, 10])
@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 20, 23])
def test_stretches_are_the_harness_rolling_windows(limit: int, length: int) -> None:
    """Which feeds all but the last token, so that `limit` + 1 are read together."""
    utils = pytest.importorskip("lm_eval.utils", reason="the extra `eval` is not installed")
    ids = list(range(100, 100 + length))
    expected = utils.get_rolling_token_windows(ids, prefix_token=1, max_seq_len=limit, context_len=1)
    assert list(stretches([1], ids, limit + 1)) == [utils.make_disjoint_window(window) for window in expected]


def test_the_last_stretch_is_no_shorter() -> None:
    assert list(stretches([], [1, 2, 3, 4, 5, 6], 4)) == [([], [1, 2, 3]), ([3], [4, 5, 6])]
    assert list(stretches([0], [1, 2, 3, 4, 5], 4)) == [([0], [1, 2, 3]), ([2, 3], [4, 5])]


@pytest.mark.parametrize(
    ("prompt", "wanted", "limit", "given"),
    [
        # what fits beside the prompt is given, to the token
        (24, 1000, 1024, 1000),
        (24, 1001, 1024, 1000),
        (896, 1024, 1024, 128),
        # a longer prompt is cut, but not for more than a least answer
        (897, 1024, 1024, 128),
        (5000, 1024, 1024, 128),
        (5000, 16, 1024, 16),
        # of a short model a quarter
        (60, 60, 64, 16),
        (2, 9, 2, 1),
    ],
)
def test_the_answer_gives_way_before_the_prompt_does(prompt: int, wanted: int, limit: int, given: int) -> None:
    assert answer_room(prompt, wanted, limit) == given


def test_the_end_of_a_pair_is_read() -> None:
    assert fitted_pair([1, 2, 3], [4, 5], 5) == ([1, 2, 3], [4, 5])
    assert fitted_pair([1, 2, 3], [4, 5], 4) == ([2, 3], [4, 5])
    assert fitted_pair([1, 2, 3], [4, 5, 6, 7], 4) == ([3], [5, 6, 7])
    assert fitted_pair([], [4, 5, 6, 7], 3) == ([], [5, 6, 7])
    assert fitted_pair([], [4, 5, 6], 3) == ([], [4, 5, 6])
