"""Counts that are drawn unevenly and weighed back; errors told of samples with a trend."""

from __future__ import annotations

import pytest
import torch

from unmask.diffusion.timesteps import in_turns
from unmask.objectives.target_masks import stratified_error, target_masks


def test_the_mean_over_seeds_of_a_weighed_count_is_one():
    """Sums that are as large as their count, under weights n / k: every sample's expectation is n."""
    values = []
    for seed in range(400):
        masks = target_masks(40, samples=3, seed=seed)
        values.append(float((masks.share_S * masks.is_masked_Un[masks.mask_S].sum(1)).sum()))
    mean, error = torch.tensor(values).mean(), torch.tensor(values).std() / 20
    assert abs(float(mean) - 40) < 4 * float(error) and float(error) < 0.5


def test_a_straight_trend_is_no_error_and_noise_is():
    level_S = in_turns(torch.arange(40), torch.full((40,), 0.2).double(), 40)
    assert stratified_error(30 * level_S, level_S) < 0.2
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(40, generator=generator, dtype=torch.float64) for _ in range(300)]
    found = sum(stratified_error(30 * level_S + each, level_S) for each in noise) / 300
    assert found == pytest.approx(1 / 40**0.5, rel=0.15)
    assert stratified_error(torch.tensor([1.0, 3.0]).double(), torch.tensor([0.1, 0.9]).double()) == pytest.approx(1.0)
