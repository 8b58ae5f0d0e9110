"""Every noise schedule that a user can name keeps the promises of `NoiseSchedule`."""

from __future__ import annotations

import math

import pytest
import torch

from unmask.diffusion.noising import draw_mask
from unmask.diffusion.posterior import reveal_prob
from unmask.diffusion.schedules import mask_prob
from unmask.diffusion.weights import elbo_weight
from unmask.registry import NOISE_SCHEDULES
from unmask.types import SampleKeys


@pytest.fixture(params=NOISE_SCHEDULES.names())
def schedule(request: pytest.FixtureRequest):
    return NOISE_SCHEDULES.get(request.param)()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_ends_at_exactly_one_and_zero(schedule, dtype: torch.dtype):
    assert schedule.alpha(0.0) == 1.0 and schedule.alpha(1.0) == 0.0
    assert schedule.alpha(torch.tensor([0.0, 1.0], dtype=dtype)).tolist() == [1.0, 0.0]
    assert mask_prob(schedule, torch.tensor([0.0, 1.0], dtype=dtype)).tolist() == [0.0, 1.0]


def test_it_falls(schedule):
    alpha = schedule.alpha(torch.linspace(0, 1, 2001, dtype=torch.float64))
    assert (alpha.diff() < 0).all()


def test_dalpha_is_the_derivative_of_alpha(schedule):
    t = torch.linspace(0, 1, 501, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    torch.testing.assert_close(schedule.dalpha(t.detach()), slope, atol=1e-12, rtol=0)


def test_floats_give_floats_and_tensors_keep_shape_and_dtype(schedule):
    for function in (
        schedule.alpha,
        schedule.dalpha,
        lambda t: mask_prob(schedule, t),
        lambda t: elbo_weight(schedule, t),
    ):
        assert type(function(0.25)) is float
        t = torch.full((2, 3), 0.25)
        assert function(t).shape == (2, 3) and function(t).dtype == torch.float32
        assert function(t)[0, 0].item() == pytest.approx(function(0.25), rel=1e-6)
        assert function(torch.empty(0)).shape == (0,)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, math.nan])
def test_times_outside_the_unit_interval_are_refused(schedule, wrong: float):
    for t in (wrong, torch.tensor([0.5, wrong])):
        for function in (schedule.alpha, schedule.dalpha):
            with pytest.raises(ValueError, match=r"time t lies in \[0, 1\]"):
                function(t)


def test_the_rate_of_masks_is_the_mask_probability(schedule):
    samples, length = 5, 20_000
    t = torch.linspace(0.05, 0.95, samples)
    index = torch.arange(samples)
    drawn = draw_mask(
        index[:, None].expand(samples, length),
        torch.ones(samples, length, dtype=torch.bool),
        mask_prob(schedule, t),
        keys=SampleKeys(index, index, torch.zeros_like(index)),
        seed=0,
    )
    expected = 1 - torch.tensor([schedule.alpha(time) for time in t.tolist()])
    error = (expected * (1 - expected) / length).sqrt()
    assert ((drawn.float().mean(1) - expected).abs() < 4.5 * error).all()


def test_a_token_weighs_one_in_expectation(schedule):
    # The integral of weight times mask probability is alpha(0) - alpha(1) = 1 for any schedule.
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert float((elbo_weight(schedule, t) * mask_prob(schedule, t)).mean()) == pytest.approx(1, abs=1e-6)


def test_the_weight_is_finite_and_exact_near_the_ends(schedule):
    ends = torch.tensor([0.0, 1e-30, 1e-9, 1.0])
    assert elbo_weight(schedule, ends).isfinite().all() and (elbo_weight(schedule, ends) >= 0).all()
    # Where mask probability ~ c t**k, the weight is k / t: 1 or 2 for the schedules with a slope or a parabola at 0.
    near = torch.tensor([1e-5, 1e-4])
    order = elbo_weight(schedule, near) * near
    assert torch.allclose(order, order.round(), rtol=2e-4) and (order.round() >= 1).all()


def test_masks_survive_steps_as_they_survive_one_leap(schedule):
    times = [1.0, 0.8, 0.45, 0.2, 0.05]
    stay = math.prod(1 - reveal_prob(schedule, s, t) for t, s in zip(times[:-1], times[1:], strict=True))
    assert stay == pytest.approx(1 - schedule.alpha(0.05), rel=1e-12)
    assert reveal_prob(schedule, 0.0, 0.3) == 1.0
