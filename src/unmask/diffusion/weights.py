"""How much the cross-entropy of a masked token counts in the loss.

Nothing here knows of losses, or multiplies anything by a mask but CART, whose context the mask is.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float32, Int
from torch import Tensor

from unmask.diffusion.schedules import NoiseSchedule, Time

_SMALLEST = 2.0**-53  # below this 1 - alpha is rounding error


def elbo_weight(schedule: NoiseSchedule, t: Time) -> Time:
    """-alpha'(t) / (1 - alpha(t)): with it the expected masked cross-entropy is the negative ELBO in nats.

    Args:
        schedule: the noise schedule; linear gives 1 / t.
        t: a float, or a float tensor of any shape; its shape and dtype are those of the result.

    Returns:
        finite everywhere, t = 0 included, where nothing is masked and the value is of no use.

    Raises:
        ValueError: see `NoiseSchedule.alpha`.

    Source: MDLM (Sahoo et al. 2024), eq. 10.
    """
    if not isinstance(t, Tensor):
        return -schedule.dalpha(t) / max(1 - schedule.alpha(t), _SMALLEST)
    # float64: the difference cancels near t = 0.
    time = t.double()
    return (-schedule.dalpha(time) / (1 - schedule.alpha(time)).clamp(min=_SMALLEST)).to(t.dtype)


def complement_weight(schedule: NoiseSchedule, t: Time) -> Time:
    """-alpha'(t) / alpha(t): the `elbo_weight` of tokens masked with probability alpha(t), as in a complementary mask.

    Arguments and errors as in `elbo_weight`; finite at t = 1 too, where nothing is left to mask.
    """
    if not isinstance(t, Tensor):
        return -schedule.dalpha(t) / max(schedule.alpha(t), _SMALLEST)
    time = t.double()
    return (-schedule.dalpha(time) / schedule.alpha(time).clamp(min=_SMALLEST)).to(t.dtype)


def cart_weight(is_masked_BL: Bool[Tensor, "B L"], sample_BL: Int[Tensor, "B L"], p: float) -> Float32[Tensor, "B L"]:
    """Dream's context-adaptive weight: the sum over unmasked j of 1/2 p (1 - p) ** (|i - j| - 1).

    Args:
        is_masked_BL: bool; masked positions.
        sample_BL: int64; only tokens of the same sample are context. The positions of a sample are contiguous.
        p: rate of the geometric distribution, 0 < p < 1; Dream uses 0.3, small values look further.

    Returns:
        float32 `[B, L]`, 0 on unmasked positions.

    Source: Dream 7B (Ye et al. 2025), context-adaptive token-level noise rescheduling.
    """
    left_BL = _decayed_before(~is_masked_BL, sample_BL, 1 - p)
    right_BL = _decayed_before(~is_masked_BL.flip(1), sample_BL.flip(1), 1 - p).flip(1)
    return (0.5 * p * (left_BL + right_BL) * is_masked_BL).float()


def _decayed_before(present_BL: Tensor, sample_BL: Tensor, decay: float) -> Tensor:
    # f_i = decay f_{i-1} + present_{i-1} inside a sample: a linear recurrence, solved by doubling in O(L) memory.
    joined_BL = torch.zeros_like(present_BL)
    joined_BL[:, 1:] = sample_BL[:, 1:] == sample_BL[:, :-1]
    total_BL = (joined_BL & present_BL.roll(1, dims=1)).double()
    factor_BL = joined_BL.double() * decay
    step = 1
    while step < total_BL.shape[1]:
        total_BL[:, step:] = total_BL[:, step:] + factor_BL[:, step:] * total_BL[:, :-step]
        factor_BL[:, step:] = factor_BL[:, step:] * factor_BL[:, :-step]
        step *= 2
    return total_BL
