"""Sources with a known joint distribution, small enough to enumerate."""

from __future__ import annotations

import torch
from torch import Tensor


def markov(generator: torch.Generator, length: int, states: int, sharpness: float) -> Tensor:
    """The joint distribution of a random Markov chain: float64 `[states] * length`, adding up to one."""

    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * sharpness).softmax(-1)

    joint, transition = draw(states), [draw(states, states) for _ in range(length - 1)]
    for matrix in transition:
        joint = joint[..., None] * matrix
    return joint


def marginals(joint: Tensor) -> Tensor:
    """Of each variable alone: `[length, states]`."""
    axes = range(joint.dim())
    return torch.stack([joint.sum([other for other in axes if other != axis]) for axis in axes])


def among(joint: Tensor, chosen: list[int]) -> Tensor:
    """The joint distribution of the chosen variables."""
    others = [axis for axis in range(joint.dim()) if axis not in chosen]
    return joint.sum(others) if others else joint


def independent(margins: list[Tensor]) -> Tensor:
    """The distribution of independent variables with these marginals."""
    product = margins[0]
    for margin in margins[1:]:
        product = product[..., None] * margin
    return product
