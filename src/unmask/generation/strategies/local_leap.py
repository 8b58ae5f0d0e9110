"""Around tokens that are sure, commit what is only likely (LocalLeap, arXiv:2510.07081)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool1d

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.strategies.scored import Scored, log
from unmask.generation.strategy import Step


class LocalLeap(Scored):
    """What is at least `threshold` probable, and near it what is at least `leap_threshold` (LocalLeap)."""

    paper = "arXiv:2510.07081"
    knobs = "threshold, leap_threshold, leap_radius, score, commit_at_least"

    def __init__(self, options: GenerationOptions) -> None:
        super().__init__(options)
        self.log_leap = log(options.leap_threshold)
        self.radius = options.leap_radius

    def accepts(
        self, certainty_BL: Float[Tensor, "B L"], proposal: Proposal, canvas: Canvas, step: Step, state: Any
    ) -> Bool[Tensor, "B L"]:
        """See `Scored`."""
        del proposal, canvas, step, state
        is_anchor_BL = certainty_BL >= self.log_threshold
        width = 2 * self.radius + 1
        is_near_BL = max_pool1d(is_anchor_BL.float(), width, stride=1, padding=self.radius) > 0
        return is_anchor_BL | (is_near_BL & (certainty_BL >= self.log_leap))
