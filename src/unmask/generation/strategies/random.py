"""Commit positions in random order, as many as the reveal schedule asks for."""

from __future__ import annotations

from unmask.diffusion.keys import Purpose
from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.strategy import Step, Transfer, best


class Random:
    """`quota` pending positions, all equally likely; a function of the row's seed, the step and the position."""

    def __init__(self, options: GenerationOptions) -> None:
        del options

    def init(self, rows: int) -> None:
        """Nothing is remembered."""
        del rows

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: None) -> Transfer:
        """See `DecodingStrategy`."""
        del state
        score_BL = step.uniforms_BL(Purpose.SCORE, canvas.tokens_BL.shape[1])
        return Transfer(best(score_BL, proposal.pending_BL, step.quota_B))
