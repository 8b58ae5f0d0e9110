"""Threshold, and LLaDA2's rule that never commits less than the schedule asks for."""

from __future__ import annotations

import pytest

from tests.generation.scenes import decide, of_confidence, places, scene


@pytest.mark.parametrize(
    ("name", "settings", "quota", "written"),
    [
        ("threshold", {}, 2, [1, 3]),
        ("threshold", {"threshold": 0.97}, 3, [3]),
        ("threshold", {"commit_at_least": "quota"}, 3, [0, 1, 3]),
        ("threshold", {"commit_at_least": "quota", "threshold": 0.5}, 1, [0, 1, 3]),
        ("llada2", {}, 1, [3]),
        ("llada2", {}, 3, [0, 1, 3]),
        ("llada2", {"threshold": 0.5}, 2, [0, 1, 3]),
        ("llada2", {"commit_at_least": "one", "threshold": 0.97}, 4, [3]),
        ("factor", {"commit_at_least": "quota"}, 4, [0, 1, 2, 3]),
        ("entropy_bounded", {"commit_at_least": "quota", "entropy_bound": 0.0}, 2, [1, 3]),
    ],
)
def test_all_that_pass_or_the_least(name: str, settings: dict, quota: int, written: list[int]) -> None:
    shown = scene(of_confidence([[0.6, 0.94, 0.2, 0.96, 0.1]]), quota=quota)
    assert places(decide(name, shown, **settings).write_BL) == [written]


def test_an_entropy_is_compared_as_a_probability() -> None:
    # Two equally likely tokens are as uncertain as a token of probability one half.
    even = of_confidence([[0.5, 0.5]], vocab=2)
    assert places(decide("threshold", scene(even), score="entropy", threshold=0.4999).write_BL) == [[0, 1]]
    assert places(decide("threshold", scene(even), score="entropy", threshold=0.5001).write_BL) == [[0]]
    # Nothing is ahead of anything.
    assert places(decide("threshold", scene(even), score="margin", threshold=0.01).write_BL) == [[0]]
