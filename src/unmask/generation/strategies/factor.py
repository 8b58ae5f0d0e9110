"""Commit as many tokens together as their joint mode allows (Fast-dLLM, theorem 1, arXiv:2505.22618).

Where n tokens have at least probability 1 - doubt each and (n + 1) doubt < 1, the most probable tokens one by one are
the most probable ones jointly. The last mask must pass the test like every other: code that is in use takes it even
where it fails.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.strategies.scored import Scored, descending, first
from unmask.generation.strategy import Step


class Factor(Scored):
    """As many at once as are jointly the most probable ones, or more with a larger `factor` (Fast-dLLM)."""

    paper = "arXiv:2505.22618"
    knobs = "factor, score, commit_at_least"

    def __init__(self, options: GenerationOptions) -> None:
        super().__init__(options)
        self.factor = options.factor

    def accepts(
        self, certainty_BL: Float[Tensor, "B L"], proposal: Proposal, canvas: Canvas, step: Step, state: Any
    ) -> Bool[Tensor, "B L"]:
        """See `Scored`."""
        del proposal, canvas, step, state
        doubt_BL = -certainty_BL.gather(1, descending(certainty_BL)).expm1()
        number_L = torch.arange(1, doubt_BL.shape[1] + 1, device=doubt_BL.device)
        # Both factors grow with n: all that pass come before the first that fails.
        return first(((number_L + 1) * doubt_BL <= self.factor).sum(1), certainty_BL)
