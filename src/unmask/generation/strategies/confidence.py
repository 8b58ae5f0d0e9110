"""Commit the most confident tokens first, as many as the reveal schedule asks for (LLaDA, "low confidence")."""

from __future__ import annotations

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.strategy import Step, Transfer, best


class Confidence:
    """The `quota` pending positions whose proposed token is most probable."""

    def __init__(self, options: GenerationOptions) -> None:
        del options

    def init(self, rows: int) -> None:
        """Nothing is remembered."""
        del rows

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: None) -> Transfer:
        """See `DecodingStrategy`."""
        del canvas, state
        return Transfer(best(proposal.log_prob_BL, proposal.pending_BL, step.quota_B))
