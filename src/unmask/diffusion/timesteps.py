"""Which time t each sample is noised at, and how many tokens are masked where the count is fixed instead.

Everything is a function of the seed and of the sample's number in the run's visiting order. Schedules, tokens and
models are unknown here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32, Int, Int64
from torch import Tensor

from unmask.diffusion.keys import Purpose, uniforms

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio


def low_discrepancy(visit_S: Int[Tensor, " S"], *, seed: int, epsilon: float) -> Float32[Tensor, " S"]:
    """Times of a golden-ratio Kronecker sequence: any run of consecutive visits covers (0, 1) evenly.

    t = epsilon + (1 - epsilon) frac(u0 + visit / golden ratio), u0 from the seed. Each single t is uniform over seeds,
    so estimates stay unbiased; the spread over a batch is what falls.

    Args:
        visit_S: int64 `[S]`, numbers in the run's visiting order, at least 0; exact for every int64.
        seed: the run's seed.
        epsilon: smallest time.

    Returns:
        float32 `[S]` in [epsilon, 1], never 0, on the CPU.
    """
    return _stretch(_kronecker(visit_S, seed), epsilon)


def iid(visit_S: Int[Tensor, " S"], *, seed: int, epsilon: float) -> Float32[Tensor, " S"]:
    """Independent times, one per visit; arguments and result as in `low_discrepancy`."""
    drawn = [uniforms(1, seed=seed, purpose=Purpose.TIME, key=(visit, 1, 0)) for visit in map(int, visit_S)]
    u_S = torch.cat([torch.empty(0, dtype=torch.float64), *drawn])
    return _interval(u_S, epsilon)


TIME_SAMPLING: dict[str, Callable[..., Tensor]] = {"low_discrepancy": low_discrepancy, "iid": iid}


def per_block(
    visit_S: Int[Tensor, " S"], num_blocks: int, *, seed: int, epsilon: float
) -> Float32[Tensor, "S {num_blocks}"]:
    """One time per block: the blocks of a sample are spaced evenly, and each block runs through the golden sequence.

    Args:
        visit_S: int64 `[S]`, as in `low_discrepancy`.
        num_blocks: blocks of a sample.
        seed: the run's seed.
        epsilon: smallest time.

    Returns:
        float32 `[S, num_blocks]` in [epsilon, 1], on the CPU.

    Source: the antithetic sampling of BD3-LM (Arriola et al. 2025), made stateless.
    """
    grid_N = np.arange(num_blocks, dtype=np.uint64) * np.uint64((1 << 64) // max(num_blocks, 1) & ((1 << 64) - 1))
    return _stretch(_kronecker(visit_S, seed)[:, None] + grid_N, epsilon)


def exact_counts(
    samples: int, length: int, *, start: int, rounding: Literal["down", "even"] = "down"
) -> Int64[Tensor, " {samples}"]:
    """How many of `length` tokens each of `samples` rows masks: spread evenly over 1..length, beginning at `start`.

    With `start` uniform over 1..length, "down" makes every row's count uniform, hence estimates unbiased. "even" is the
    rule of LLaDA's `get_log_likelihood.py`, which rounds halves to even: where length / samples has a half in it
    (10 tokens, 4 rows) some rows see only even counts, and the estimate is biased. It is here for parity.

    Args:
        samples: rows.
        length: tokens that may be masked, at least 1.
        start: count of the first row, 1..length.
        rounding: "down" or "even".

    Returns:
        int64 `[samples]` in 1..length, on the CPU.

    Raises:
        ValueError: `start` is not in 1..length.
    """
    if not 1 <= start <= length:
        raise ValueError(f"start is {start}; it must be a count from 1 to length = {length}")
    if rounding == "even":
        last = start + (samples - 1) * (length / samples)
        spread = torch.linspace(float(start), last, steps=samples).round().long()
    else:
        spread = start + torch.arange(samples) * length // samples
    return (spread - 1) % length + 1


def _kronecker(visit_S: Tensor, seed: int) -> npt.NDArray[np.uint64]:
    # Fixed-point fractions in units of 2**-64: overflow is the "modulo 1", so nothing is lost at large visits.
    first = np.uint64(int(uniforms(1, seed=seed, purpose=Purpose.TIME, key=(0, 0, 0)).item() * 2**64))
    return first + visit_S.cpu().numpy().astype(np.uint64) * _GOLDEN


def _stretch(fraction: npt.NDArray[np.uint64], epsilon: float) -> Tensor:
    return _interval(torch.tensor(fraction.astype(np.float64)) * 2.0**-64, epsilon)


def _interval(u: Tensor, epsilon: float) -> Tensor:
    # The half step keeps t off 0, where the loss weight has a pole, even with epsilon = 0.
    return (epsilon + (1 - epsilon) * (u + 2.0**-65)).float()
