"""Commit tokens together while their entropies bound what they know about each other (EB-Sampler, arXiv:2505.24857).

What is lost by drawing a set of tokens independently, KL(joint || product), is at most the sum of their entropies less
the largest one.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.strategies.scored import Scored, descending, first
from unmask.generation.strategy import Step


class EntropyBounded(Scored):
    """As many at once as can depend on each other by at most `entropy_bound` nats (EB-Sampler)."""

    paper = "arXiv:2505.24857"
    knobs = "entropy_bound, score, commit_at_least"
    own_score = "entropy"

    def __init__(self, options: GenerationOptions) -> None:
        super().__init__(options)
        self.bound = options.entropy_bound

    def accepts(
        self, certainty_BL: Float[Tensor, "B L"], proposal: Proposal, canvas: Canvas, step: Step, state: Any
    ) -> Bool[Tensor, "B L"]:
        """See `Scored`."""
        del canvas, step, state
        entropy_BL = proposal.entropy_BL.masked_fill(~proposal.pending_BL, 0).gather(1, descending(certainty_BL))
        is_within_BL = entropy_BL.cumsum(1) - entropy_BL.cummax(1).values <= self.bound
        # The sum grows with every token; the product guards against its rounding.
        return first(is_within_BL.long().cumprod(1).sum(1), certainty_BL)
