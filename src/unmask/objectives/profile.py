"""Where the nats of a target lie: by how much of it was masked, and by position. Numbers only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

BINS = 10


@dataclass(frozen=True)
class Profile:
    """Sums over tokens, each `[BINS]`.

    Attributes:
        time_nats, time_tokens: cross-entropy of masked tokens, and their number, by the share of tokens that was masked
            with them: (0, 0.1], (0.1, 0.2], ...; every share counts the same, however it was drawn.
        position_nats, position_tokens: the tokens' part in the bound, and their number, by position in the target, from
            its first tenth to its last.
    """

    time_nats: Float64[Tensor, " N"]
    time_tokens: Float64[Tensor, " N"]
    position_nats: Float64[Tensor, " N"]
    position_tokens: Float64[Tensor, " N"]

    def __add__(self, other: Profile) -> Profile:
        return Profile(
            self.time_nats + other.time_nats,
            self.time_tokens + other.time_tokens,
            self.position_nats + other.position_nats,
            self.position_tokens + other.position_tokens,
        )

    @staticmethod
    def empty() -> Profile:
        """Of no tokens."""
        return Profile(*(torch.zeros(BINS, dtype=torch.float64) for _ in range(4)))


def profile_of(
    nll_n: Float[Tensor, " n"],
    share_n: Float64[Tensor, " n"],
    masked_n: Int[Tensor, " n"],
    maskable_n: Int[Tensor, " n"],
    position_n: Int[Tensor, " n"],
    length: int,
) -> Profile:
    """The profile of one target, given the cross-entropy of every masked token of every mask.

    Args:
        nll_n: nats. share_n: what it is multiplied by in the bound.
        masked_n: how many tokens were masked with it, out of `maskable_n`; 0 where nothing was: autoregression.
        position_n: in the target, from 0. length: tokens of the target.
    """
    found = Profile.empty()
    nats_n, time_n = nll_n.double(), (masked_n * BINS + maskable_n - 1) // maskable_n - 1
    noised_n = masked_n > 0
    weight_n = (share_n * masked_n)[noised_n]
    found.time_nats.index_add_(0, time_n[noised_n], nats_n[noised_n] * weight_n)
    found.time_tokens.index_add_(0, time_n[noised_n], weight_n)
    place_L = torch.arange(length) * BINS // max(length, 1)
    found.position_nats.index_add_(0, place_L[position_n], nats_n * share_n)
    found.position_tokens.index_add_(0, place_L, torch.ones(length, dtype=torch.float64))
    return found
