from __future__ import annotations

import math

import pytest
import torch

from unmask.diffusion.schedules import Cosine, Linear, MaskgitCosine, Polynomial, mask_prob, time_at
from unmask.diffusion.weights import elbo_weight


@pytest.mark.parametrize(
    ("schedule", "kept"),
    [
        (Linear(), 2 / 3),
        (Cosine(), math.sqrt(3) / 2),
        (MaskgitCosine(), 0.5),
        (Polynomial(), 8 / 9),
        (Polynomial(3.0), 26 / 27),
    ],
)
def test_a_third_of_the_way(schedule, kept: float):
    assert schedule.alpha(1 / 3) == pytest.approx(kept, rel=1e-14)


@pytest.mark.parametrize("t", [1e-4, 1e-3, 0.3, 0.999, 1.0])
def test_the_cosine_weight_is_a_cotangent_in_float32(t: float):
    # Half-angle identity: (pi / 2) sin x / (1 - cos x) = (pi / 2) cot(x / 2), x = pi t / 2.
    time = torch.tensor([t])
    exact = math.pi / 2 / math.tan(math.pi * time.item() / 4)
    assert elbo_weight(Cosine(), time).item() == pytest.approx(exact, rel=1e-6)
    # 1 - cos x = 2 sin^2(x / 2)
    assert mask_prob(Cosine(), time).item() == pytest.approx(2 * math.sin(math.pi * time.item() / 4) ** 2, rel=1e-6)


def test_a_power_below_one_is_refused():
    with pytest.raises(ValueError, match="must be at least 1"):
        Polynomial(0.5)


def test_the_time_of_a_probability():
    prob = torch.linspace(0, 1, 21, dtype=torch.float64)
    torch.testing.assert_close(time_at(Linear(), prob), prob, atol=1e-12, rtol=0)
    torch.testing.assert_close(time_at(Cosine(), prob), torch.arccos(1 - prob) * 2 / math.pi, atol=1e-7, rtol=0)
    torch.testing.assert_close(time_at(Polynomial(3), prob), prob ** (1 / 3), atol=1e-7, rtol=0)
