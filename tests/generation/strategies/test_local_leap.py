from __future__ import annotations

import pytest
import torch

from tests.generation.scenes import decide, of_confidence, places, scene

ROW = [0.8, 0.8, 0.8, 0.95, 0.6, 0.8, 0.8, 0.5, 0.91, 0.74]


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ({}, [0, 1, 2, 3, 5, 6, 8]),
        ({"leap_radius": 2}, [1, 2, 3, 5, 6, 8]),
        ({"leap_radius": 1}, [2, 3, 8]),
        ({"leap_radius": 0}, [3, 8]),
        ({"leap_threshold": 0.55, "leap_radius": 1}, [2, 3, 4, 8, 9]),
        ({"threshold": 0.93, "leap_radius": 2}, [1, 2, 3, 5]),
        ({"threshold": 0.99}, [3]),
    ],
)
def test_what_is_likely_near_what_is_sure(settings: dict, written: list[int]) -> None:
    assert places(decide("local_leap", scene(of_confidence([ROW])), **settings).write_BL) == [written]


def test_a_token_that_stands_is_no_anchor() -> None:
    masked = torch.ones(1, len(ROW), dtype=torch.bool)
    masked[0, 3] = False
    assert places(decide("local_leap", scene(of_confidence([ROW]), masked), leap_radius=2).write_BL) == [[6, 8]]
