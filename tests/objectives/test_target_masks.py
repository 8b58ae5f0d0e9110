"""Counts that are drawn unevenly and weighed back; errors told of samples with a trend."""

from __future__ import annotations

import pytest
import torch

from unmask.objectives.target_masks import counts_at, stratified_error, stratified_times, target_masks


@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_every_count_is_worth_the_same_however_often_it_is_drawn(length: int):
    times = 200_000
    count_T, ratio_T = counts_at((torch.arange(times, dtype=torch.float64) + 0.5) / times, length)
    worth = torch.bincount(count_T, ratio_T, minlength=length + 1) / times
    assert worth[0] == 0 and torch.allclose(worth[1:], torch.full((length,), 1 / length).double(), rtol=5e-3)
    drawn = torch.bincount(count_T, minlength=length + 1)[1:]
    assert (drawn.diff() <= 1).all()


def test_a_time_lies_in_each_cell_and_neighbours_undo_a_trend():
    for first in (0.0, 0.3, 0.99):
        time_S = stratified_times(6, first)
        assert (time_S * 6).long().tolist() == [0, 1, 2, 3, 4, 5] or first == 0.0
        assert float(time_S.mean()) == pytest.approx(0.5)
    starts = torch.linspace(0, 1, 101)
    seen = torch.stack([stratified_times(5, float(first)) for first in starts])
    # each of them goes through its whole cell
    assert torch.allclose(seen.amin(0), torch.arange(5).double() / 5) and torch.allclose(
        seen.amax(0), seen.amin(0) + 0.2
    )


def test_the_mean_over_seeds_of_a_weighed_count_is_one():
    """Sums that are as large as their count, under weights n / k: every sample's expectation is n."""
    values = []
    for seed in range(400):
        masks = target_masks(40, samples=3, seed=seed)
        values.append(float((masks.share_S * masks.is_masked_Un[masks.mask_S].sum(1)).sum()))
    mean, error = torch.tensor(values).mean(), torch.tensor(values).std() / 20
    assert abs(float(mean) - 40) < 4 * float(error) and float(error) < 0.5


def test_a_straight_trend_is_no_error_and_noise_is():
    level_S = stratified_times(40, 0.2)
    assert stratified_error(30 * level_S, level_S) < 0.2
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(40, generator=generator, dtype=torch.float64) for _ in range(300)]
    found = sum(stratified_error(30 * level_S + each, level_S) for each in noise) / 300
    assert found == pytest.approx(1 / 40**0.5, rel=0.15)
    assert stratified_error(torch.tensor([1.0, 3.0]).double(), torch.tensor([0.1, 0.9]).double()) == pytest.approx(1.0)
