"""Bins by length, against the definition written as two loops and against bounds of the literature."""

from __future__ import annotations

import numpy as np
import pytest

from unmask.data.bins import first_fit_decreasing, of_neighbours, of_similar_length


def by_definition(lengths: list[int], size: int) -> list[list[int]]:
    bins: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        for held in bins:
            if sum(held) + length <= size:
                held.append(length)
                break
        else:
            bins.append([length])
    return bins


@pytest.mark.parametrize("seed", range(8))
def test_first_fit_decreasing_is_what_its_name_says(seed: int) -> None:
    chance = np.random.default_rng(seed)
    lengths = chance.integers(0 if seed % 2 else 1, 101, size=chance.integers(1, 200))
    bins = first_fit_decreasing(lengths, 100)
    expected = by_definition(lengths.tolist(), 100)
    assert [sorted(lengths[bins == number].tolist(), reverse=True) for number in range(bins.max() + 1)] == expected


def test_it_is_within_eleven_ninths_of_the_best() -> None:
    """Johnson 1973: at most 11/9 OPT + 6/9 (Dósa 2007); here OPT is known, as the pieces were cut from whole bins."""
    chance = np.random.default_rng(1)
    cuts = [np.diff([0, *sorted(chance.choice(np.arange(1, 100), 3, replace=False)), 100]) for _ in range(90)]
    bins = first_fit_decreasing(np.concatenate(cuts), 100)
    assert 90 <= bins.max() + 1 <= 11 / 9 * 90 + 6 / 9


def test_rows_of_a_bin_are_of_similar_length_and_fit_when_padded() -> None:
    lengths = np.random.default_rng(2).integers(1, 300, size=2000)
    bins = of_similar_length(lengths, 1024)
    groups = [lengths[bins == number] for number in range(bins.max() + 1)]
    assert sum(map(len, groups)) == 2000
    assert all(len(group) * group.max() <= 1024 for group in groups)
    assert all(above.min() >= below.max() for above, below in zip(groups, groups[1:], strict=False))
    # no bin but the last would have held one more
    assert all((len(group) + 1) * group.max() > 1024 for group in groups[:-1])


def test_a_row_longer_than_a_bin_is_alone() -> None:
    assert of_similar_length(np.array([5, 50, 5]), 10).tolist() == [1, 0, 1]


def test_neighbours_stay_together_and_fit_when_padded() -> None:
    lengths = np.random.default_rng(3).integers(1, 300, size=2000)
    bins = of_neighbours(lengths, 1024)
    assert bins[0] == 0 and set(np.diff(bins).tolist()) == {0, 1}
    groups = [lengths[bins == number] for number in range(bins.max() + 1)]
    assert all(len(group) * group.max() <= 1024 for group in groups)
    # none would have held the next row too
    firsts = [int(group[0]) for group in groups[1:]]
    assert all((len(g) + 1) * max(g.max(), first) > 1024 for g, first in zip(groups[:-1], firsts, strict=True))


def test_a_neighbour_that_is_too_long_is_alone() -> None:
    assert of_neighbours(np.array([5, 50, 5, 5, 4]), 10).tolist() == [0, 1, 2, 2, 3]
