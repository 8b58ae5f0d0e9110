"""Commit every token that is probable enough, the bar falling as the block fills (Streaming-dLLM, arXiv:2601.17917).

What is left masked is counted in the block, of what was masked when it began.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.strategies.memory import Memory
from unmask.generation.strategies.scored import Scored
from unmask.generation.strategy import Step


class Adaptive(Scored):
    """What is probable enough, the bar falling by up to `threshold_decay` while the block fills."""

    paper = "arXiv:2601.17917"
    knobs = "threshold, threshold_decay, score, commit_at_least"

    def __init__(self, options: GenerationOptions) -> None:
        super().__init__(options)
        self.decay = options.threshold_decay

    def init(self, rows: int) -> Memory:
        """How many masks each row's block began with."""
        return Memory(rows)

    def accepts(
        self, certainty_BL: Float[Tensor, "B L"], proposal: Proposal, canvas: Canvas, step: Step, state: Any
    ) -> Bool[Tensor, "B L"]:
        """See `Scored`."""
        left_B = proposal.pending_BL.sum(1)
        all_B = state.recall("masks", left_B, canvas, step)
        state.keep("masks", all_B, canvas)
        bar_B = self.threshold * (1 - self.decay * (1 - left_B / all_B.clamp(min=1)))
        return certainty_BL >= bar_B.to(certainty_BL.dtype).log()[:, None]
