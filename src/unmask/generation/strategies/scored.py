"""Score x acceptance: the base of the strategies that commit whatever passes a test, and always something."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions, Least, Score
from unmask.generation.proposal import Proposal
from unmask.generation.scores import certainty_BL
from unmask.generation.strategy import Step, Transfer, best


class Scored:
    """The pending positions that pass `accepts`; where too few do, the surest ones instead."""

    own_score: ClassVar[Score] = "confidence"
    own_least: ClassVar[Least] = "one"
    own_threshold: ClassVar[float] = 0.9
    paper: ClassVar[str] = ""
    knobs: ClassVar[str] = ""

    def __init__(self, options: GenerationOptions) -> None:
        self.score: Score = options.score or self.own_score
        self.wants_quota = (options.commit_at_least or self.own_least) == "quota"
        self.threshold = self.own_threshold if options.threshold is None else options.threshold
        self.log_threshold = log(self.threshold)

    def init(self, rows: int) -> Any:
        """Nothing is remembered."""
        del rows

    def accepts(
        self, certainty_BL: Float[Tensor, "B L"], proposal: Proposal, canvas: Canvas, step: Step, state: Any
    ) -> Bool[Tensor, "B L"]:
        """Which positions pass the test; what it says where nothing is pending does not matter."""
        raise NotImplementedError

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: Any) -> Transfer:
        """See `DecodingStrategy`."""
        sure_BL = certainty_BL(self.score, proposal, step)
        accepted_BL = self.accepts(sure_BL, proposal, canvas, step, state)
        return Transfer(self.enough(accepted_BL, sure_BL, proposal.pending_BL, step))

    def enough(
        self,
        accepted_BL: Bool[Tensor, "B L"],
        certainty_BL: Float[Tensor, "B L"],
        allowed_BL: Bool[Tensor, "B L"],
        step: Step,
    ) -> Bool[Tensor, "B L"]:
        """What was accepted of the allowed positions; in rows with less than the least, the surest ones instead."""
        accepted_BL = accepted_BL & allowed_BL
        least_B = step.quota_B.clamp(min=1) if self.wants_quota else torch.ones_like(step.quota_B)
        is_enough_B = accepted_BL.sum(1) >= least_B
        return torch.where(is_enough_B[:, None], accepted_BL, best(certainty_BL, allowed_BL, least_B))


def log(value: float) -> float:
    """The logarithm of a number from 0."""
    return math.log(value) if value > 0 else -math.inf


def first(count_B: Int[Tensor, " B"], certainty_BL: Float[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """The surest `count_B` positions of each row, the earlier one where they are equally sure."""
    return best(certainty_BL, certainty_BL > -torch.inf, count_B)


def descending(certainty_BL: Float[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """The positions of each row from the surest to the least sure, the earlier one first where they are equal."""
    return certainty_BL.argsort(dim=1, descending=True, stable=True)
