"""Noise schedules: how likely a token is still clean at time t.

A schedule knows `alpha` and its derivative only. Mask probability, loss weight and reveal probability are functions
over it, here and in `weights.py` and `posterior.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

Time = TypeVar("Time", float, Tensor)


@runtime_checkable
class NoiseSchedule(Protocol):
    """Probability that a token is kept, falling from alpha(0) = 1 to alpha(1) = 0."""

    def alpha(self, t: Time) -> Time:
        """Probability that a token is kept at time `t`; a float gives a float, a tensor one of its shape and dtype.

        Raises:
            ValueError: `t` is a float or a CPU tensor outside [0, 1] (a GPU tensor is not looked at: that would wait).
        """
        ...

    def dalpha(self, t: Time) -> Time:
        """Derivative of `alpha` with respect to `t`; shapes and errors as there."""
        ...


@dataclass(frozen=True)
class Linear:
    """alpha = 1 - t (MDLM, LLaDA, Dream)."""

    def alpha(self, t: Time) -> Time:
        """See `NoiseSchedule.alpha`."""
        return _at(lambda x: 1 - x, t)

    def dalpha(self, t: Time) -> Time:
        """See `NoiseSchedule.dalpha`."""
        return _at(lambda x: -torch.ones_like(x), t)


@dataclass(frozen=True)
class Cosine:
    """alpha = cos(pi t / 2): little is masked early."""

    def alpha(self, t: Time) -> Time:
        """See `NoiseSchedule.alpha`."""
        # The sine of the complement is exactly 0 at t = 1, where the cosine is 6e-17.
        return _at(lambda x: torch.sin(math.pi / 2 * (1 - x)), t)

    def dalpha(self, t: Time) -> Time:
        """See `NoiseSchedule.dalpha`."""
        return _at(lambda x: -math.pi / 2 * torch.sin(math.pi / 2 * x), t)


@dataclass(frozen=True)
class MaskgitCosine:
    """alpha = 1 - cos(pi/2 (1 - t)) (MaskGIT; what dLLM calls "cosine"): much is masked early."""

    def alpha(self, t: Time) -> Time:
        """See `NoiseSchedule.alpha`."""
        return _at(lambda x: 1 - torch.sin(math.pi / 2 * x), t)

    def dalpha(self, t: Time) -> Time:
        """See `NoiseSchedule.dalpha`."""
        return _at(lambda x: -math.pi / 2 * torch.sin(math.pi / 2 * (1 - x)), t)


@dataclass(frozen=True)
class Polynomial:
    """alpha = 1 - t ** power.

    Attributes:
        power: at least 1, so that the derivative is finite at t = 0.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        if not self.power >= 1:
            raise ValueError(f"power of a polynomial noise schedule is {self.power}; it must be at least 1")

    def alpha(self, t: Time) -> Time:
        """See `NoiseSchedule.alpha`."""
        return _at(lambda x: 1 - x**self.power, t)

    def dalpha(self, t: Time) -> Time:
        """See `NoiseSchedule.dalpha`."""
        return _at(lambda x: -self.power * x ** (self.power - 1), t)


def mask_prob(schedule: NoiseSchedule, t: Time) -> Time:
    """Probability that a token is masked at time `t`: 1 - alpha(t).

    Args:
        schedule: the noise schedule.
        t: a float, or a float tensor of any shape; its shape and dtype are those of the result.

    Raises:
        ValueError: see `NoiseSchedule.alpha`.
    """
    # Near t = 0 the difference cancels: in float32 the cosine schedule would lose 5 % at t = 1e-3.
    if isinstance(t, Tensor):
        return (1 - schedule.alpha(t.double())).to(t.dtype)
    return 1 - schedule.alpha(t)


def time_at(schedule: NoiseSchedule, prob: Tensor) -> Tensor:
    """The time at which a token is masked with this probability, by bisection.

    Args:
        schedule: the noise schedule.
        prob: float64 of any shape, from 0 to 1.
    """
    low, high = torch.zeros_like(prob), torch.ones_like(prob)
    for _ in range(53):
        middle = (low + high) / 2
        is_later = mask_prob(schedule, middle) < prob
        low, high = torch.where(is_later, middle, low), torch.where(is_later, high, middle)
    return high


def _at(function: Callable[[Tensor], Tensor], t: Time) -> Time:
    if isinstance(t, Tensor):
        _check_range(t)
        return function(t)
    time = torch.tensor(t, dtype=torch.float64)
    _check_range(time)
    return float(function(time))


def _check_range(t: Tensor) -> None:
    if t.device.type != "cpu" or t.numel() == 0:
        return
    low, high = (bound.item() for bound in t.detach().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"time t lies in [0, 1], 0 clean and 1 all noise; got values from {low} to {high}")
