"""Of each run of masks the surest is written if it is likely, and whatever is sure."""

from __future__ import annotations

import random

import pytest
import torch

from tests.generation.scenes import decide, of_confidence, places, scene


def by_reading(confidence: list[float], masked: list[bool], low: float, high: float) -> list[int]:
    """The rule as it is written down: walk over the runs."""
    runs: list[list[int]] = []
    for place, is_masked in enumerate(masked):
        if is_masked and (place == 0 or not masked[place - 1]):
            runs.append([])
        if is_masked:
            runs[-1].append(place)
    best = [max(run, key=lambda place: (confidence[place], -place)) for run in runs]
    everything = [place for run in runs for place in run]
    chosen = {place for place in best if confidence[place] > low} | {p for p in everything if confidence[p] > high}
    return sorted(chosen | {max(everything, key=lambda place: (confidence[place], -place))})


@pytest.mark.parametrize("seed", range(30))
def test_the_rule_is_that_of_the_source_on_random_blocks(seed: int) -> None:
    draw = random.Random(seed)
    confidence = [[draw.choice([0.1, 0.3, 0.45, 0.7, 0.95]) for _ in range(12)] for _ in range(3)]
    masked = [[draw.random() < 0.6 for _ in range(12)] for _ in range(3)]
    for row in masked:
        row[draw.randrange(12)] = True
    shown = scene(of_confidence(confidence), torch.tensor(masked))
    low, high = draw.choice([0.2, 0.4]), draw.choice([0.6, 0.9])
    transfer = decide("hierarchical", shown, run_threshold=low, threshold=high)
    assert places(transfer.write_BL) == [
        by_reading(row, mask, low, high) for row, mask in zip(confidence, masked, strict=True)
    ]


def test_the_defaults_split_a_stretch_that_threshold_leaves_alone() -> None:
    confidence = [[0.5, 0.45, 0.1, 0.2, 0.6, 0.3]]
    masked = torch.tensor([[True, True, False, True, True, True]])
    shown = scene(of_confidence(confidence), masked)
    assert places(decide("hierarchical", shown).write_BL) == [[0, 4]]
    assert places(decide("threshold", shown).write_BL) == [[4]]
