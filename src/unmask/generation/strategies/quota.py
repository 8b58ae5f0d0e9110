"""Commit as many tokens as the reveal schedule asks for, the surest first: the base of strategies without a test."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.diffusion.keys import Purpose
from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions, Score
from unmask.generation.proposal import Proposal
from unmask.generation.scores import certainty_BL
from unmask.generation.strategy import Step, Transfer, best


class Quota:
    """The `quota` surest pending positions, or as many drawn with odds exp(score / score_temperature)."""

    own_score: ClassVar[Score] = "confidence"
    paper: ClassVar[str] = ""
    knobs: ClassVar[str] = "reveal, score, score_temperature"

    def __init__(self, options: GenerationOptions) -> None:
        self.score: Score = options.score or self.own_score
        self.temperature = options.score_temperature

    def init(self, rows: int) -> Any:
        """Nothing is remembered."""
        del rows

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: Any) -> Transfer:
        """See `DecodingStrategy`."""
        del canvas, state
        order_BL = certainty_BL(self.score, proposal, step)
        if self.temperature > 0 and self.score != "random":
            order_BL = self._drawn(order_BL, step)
        return Transfer(best(order_BL, proposal.pending_BL, step.quota_B.clamp(min=1)))

    def _drawn(self, certainty_BL: Float[Tensor, "B L"], step: Step) -> Float[Tensor, "B L"]:
        """Keys whose largest ones are a draw without replacement (Gumbel top-k, arXiv:1903.06059)."""
        # Dream's scores are a probability, a difference of two, and an entropy in nats.
        score_BL = certainty_BL if self.score == "entropy" else certainty_BL.exp()
        uniform_BL = step.uniforms_BL(Purpose.SCORE, score_BL.shape[1])
        gumbel_BL = -(-uniform_BL.clamp(min=torch.finfo(uniform_BL.dtype).tiny).log()).log()
        return score_BL / self.temperature + gumbel_BL
