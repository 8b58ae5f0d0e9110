"""Commit every token that is probable enough, and always the best one (Fast-dLLM, arXiv:2505.22618)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.proposal import Proposal
from unmask.generation.strategies.scored import Scored
from unmask.generation.strategy import Step


class Threshold(Scored):
    """What is at least `threshold` probable, and always the best one (Fast-dLLM)."""

    paper = "arXiv:2505.22618"
    knobs = "threshold, score, commit_at_least"

    def accepts(
        self, certainty_BL: Float[Tensor, "B L"], proposal: Proposal, canvas: Canvas, step: Step, state: Any
    ) -> Bool[Tensor, "B L"]:
        """See `Scored`."""
        del proposal, canvas, step, state
        return certainty_BL >= self.log_threshold
