"""The way back from noise: how likely a masked token is revealed, and how many are revealed at each step.

Which tokens are revealed is the strategy's business, not known here.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from unmask.diffusion.schedules import Linear, NoiseSchedule, Time, mask_prob

LINEAR = Linear()


def reveal_prob(schedule: NoiseSchedule, s: Time, t: Time) -> Time:
    """Probability that a token masked at time `t` is no longer masked at the earlier time `s`.

    (alpha(s) - alpha(t)) / (1 - alpha(t)); for linear, (t - s) / t.

    Args:
        schedule: the noise schedule.
        s: a float, or a float tensor of the shape of `t`; 0 <= s < t.
        t: likewise; 0 < t <= 1.

    Raises:
        ValueError: see `NoiseSchedule.alpha`.

    Source: MDLM (Sahoo et al. 2024), eq. 6.
    """
    return 1 - mask_prob(schedule, s) / mask_prob(schedule, t)


def reveal_counts(
    masks_B: Int[Tensor, " B"],
    steps: int,
    *,
    how: Literal["even", "rounded", "truncated"] = "even",
    schedule: NoiseSchedule = LINEAR,
) -> Int64[Tensor, "B {steps}"]:
    """How many tokens each row reveals at each of `steps` steps.

    Args:
        masks_B: int64; masked tokens of each row.
        steps: number of steps, at least 1. With more steps than masks the last ones reveal nothing.
        how: "even" is LLaDA's rule: as equal as possible, larger counts first; the schedule does not matter.
            "rounded" is dLLM's: the rounded expectation under `schedule`, steps that reveal nothing moved to the end.
            "truncated" is Dream's: the expectation under the linear schedule from time 1 to 0.001 rounded down, all
            that is left at the last step; steps that reveal nothing are moved to the end, for they change no canvas.
        schedule: the noise schedule.

    Returns:
        int64 `[B, steps]`, each row adding up to its `masks_B`, zeros at the end; on the device of `masks_B`.

    Raises:
        ValueError: `steps` is not positive, or `how` is unknown.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; at least 1 step is needed to reveal anything")
    if how == "even":
        return _even(masks_B, steps)
    if how == "rounded":
        return _rounded(masks_B, steps, schedule)
    if how == "truncated":
        return _truncated(masks_B, steps)
    raise ValueError(f'reveal schedule "{how}" is not one of even, rounded, truncated')


def _even(masks_B: Tensor, steps: int) -> Tensor:
    step_S = torch.arange(steps, device=masks_B.device)
    return masks_B.long()[:, None] // steps + (step_S < masks_B[:, None] % steps)


def _rounded(masks_B: Tensor, steps: int, schedule: NoiseSchedule) -> Tensor:
    # Times and mask probabilities in float32, products in float64: dLLM's precisions decide how halves round.
    time = (torch.arange(steps, -1, -1, dtype=torch.float64) / steps).float()
    masked = 1 - schedule.alpha(time)
    reveal = 1 - (masked[1:] / masked[:-1]).double()
    left_B = masks_B.long()
    counts: list[Tensor] = []
    for probability in reveal.unbind():
        counts.append((left_B.double() * probability).round().long().minimum(left_B))
        left_B = left_B - counts[-1]
    return _zeros_last(torch.stack(counts, dim=1))


def _truncated(masks_B: Tensor, steps: int) -> Tensor:
    # Float32 throughout, as in Dream: it decides what is rounded down.
    time = torch.linspace(1, 1e-3, steps + 1)
    left_B = masks_B.long()
    counts: list[Tensor] = []
    for probability in (1 - time[1:-1] / time[:-2]).unbind():
        counts.append((left_B.float() * probability).floor().long())
        left_B = left_B - counts[-1]
    return _zeros_last(torch.stack([*counts, left_B], dim=1))


def _zeros_last(counts_BS: Tensor) -> Tensor:
    return counts_BS.gather(1, (counts_BS == 0).long().argsort(dim=1, stable=True))
