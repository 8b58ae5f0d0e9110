from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from unmask.diffusion.schedules import Linear, MaskgitCosine, mask_prob
from unmask.diffusion.weights import cart_weight, elbo_weight


@pytest.mark.parametrize(("name", "schedule"), [("linear", Linear()), ("cosine", MaskgitCosine())])
def test_elbo_weights_are_those_stored(shared, name: str, schedule):
    stored = load_file(shared / "golden/llada/mdlm_loss_tensors.safetensors")
    t = stored["t"]
    # The reference adds 1e-6 to the denominator.
    damped = elbo_weight(schedule, t) * mask_prob(schedule, t) / (mask_prob(schedule, t) + 1e-6)
    weight_BL = stored[f"weight_{name}_scheduler"]
    torch.testing.assert_close(damped[:, None].expand_as(weight_BL), weight_BL, rtol=1e-5, atol=0)


@pytest.mark.parametrize("p", [0.1, 0.3])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_cart_weights_are_those_stored(shared, name: str, p: float):
    stored = load_file(shared / "golden/dream/dream_cart_loss_tensors.safetensors")
    is_masked_BL = stored[f"masked_{name}_shift"]
    weight_BL = cart_weight(is_masked_BL, torch.zeros_like(is_masked_BL, dtype=torch.long), p)
    torch.testing.assert_close(weight_BL, stored[f"weight_{name}_cart[geo_p:{p}]_shift"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("length", [1, 2, 7, 64, 129])
@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_cart_equals_the_double_sum_over_packed_samples(length: int, p: float):
    generator = torch.Generator().manual_seed(length)
    is_masked_BL = torch.rand(3, length, generator=generator) < 0.6
    sample_BL = (torch.rand(3, length, generator=generator) < 0.1).long().cumsum(1)
    expected_BL = torch.zeros(3, length)
    for b in range(3):
        for i in range(length):
            for j in range(length):
                if is_masked_BL[b, i] and not is_masked_BL[b, j] and sample_BL[b, i] == sample_BL[b, j]:
                    expected_BL[b, i] += 0.5 * p * (1 - p) ** (abs(i - j) - 1)
    torch.testing.assert_close(cart_weight(is_masked_BL, sample_BL, p), expected_BL, rtol=1e-5, atol=1e-6)


def test_a_lone_mask_in_a_long_text_weighs_one():
    is_masked_BL = torch.zeros(1, 2001, dtype=torch.bool)
    is_masked_BL[0, 1000] = True
    weight_BL = cart_weight(is_masked_BL, torch.zeros(1, 2001, dtype=torch.long), 0.3)
    assert weight_BL[0, 1000].item() == pytest.approx(1, rel=1e-6) and weight_BL.count_nonzero() == 1
