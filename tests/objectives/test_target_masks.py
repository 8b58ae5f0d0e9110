"""Counts that are drawn unevenly and weighed back; errors told of samples with a trend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unmask.diffusion.timesteps import in_turns
from unmask.objectives.target_masks import TargetMasks, stratified_error, target_masks


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


def of_counts(nats: Callable[[Tensor], Tensor], masks: TargetMasks) -> float:
    """The estimate where a token's cross-entropy depends on the share that is masked and on nothing else."""
    nll_Un = nats(masks.is_masked_Un.double().mean(1))[:, None].expand(masks.is_masked_Un.shape)
    mask_n, position_n = masks.is_masked_Un.nonzero(as_tuple=True)
    return masks.estimate_by_tokens(nll_Un[mask_n, position_n], mask_n, position_n).mean


@pytest.mark.parametrize(("length", "samples"), [(10, 3), (10, 4), (40, 9)])
def test_a_constant_is_found_exactly_and_what_depends_on_counts_without_bias(length: int, samples: int) -> None:
    drawn = [target_masks(length, samples=samples, seed=seed, enumerates=False) for seed in range(250)]
    for masks in drawn[:40]:
        assert of_counts(lambda share_U: torch.full_like(share_U, 2.5), masks) == pytest.approx(-2.5 * length, rel=1e-9)
    for nats in (lambda share: share**3, lambda share: (share < 0.3).double(), lambda share: 1 / share):
        found = torch.tensor([of_counts(nats, masks) for masks in drawn], dtype=torch.float64)
        # every count from 1 to all of them is as likely
        right = -float(nats(torch.arange(1, length + 1, dtype=torch.float64) / length).sum())
        assert abs(float(found.mean()) - right) < 4 * float(found.std()) / len(drawn) ** 0.5 + 1e-9
