"""Intervals against published values and against theory."""

from __future__ import annotations

import math
import random

import pytest

from unmask.evaluation.intervals import bootstrap, wilson


# Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(count - right, count)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_of_nothing() -> None:
    for right, count in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError):
            wilson(right, count)


def test_bootstrap_nears_the_normal_interval() -> None:
    chance = random.Random(0)
    values = [chance.betavariate(2, 5) for _ in range(4000)]
    mean = sum(values) / len(values)
    error = math.sqrt(sum((value - mean) ** 2 for value in values)) / len(values)
    low, high = bootstrap(values)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.2 * error)
    assert bootstrap(values) == (low, high)
    assert bootstrap([0.25] * 7) == (0.25, 0.25)
    with pytest.raises(ValueError):
        bootstrap([])
