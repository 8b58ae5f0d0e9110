"""Write widely, and take back what does not hold (WINO, arXiv:2507.18578).

Each step writes all masks that are likely, and masks again the written tokens of the block that are not at least
`verify_threshold` probable when they are hidden and everything else is seen. It ends: a step takes back fewer tokens
than the step before it wrote, and none where it writes only one, so a block of W tokens takes at most W steps.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.scores import certainty_BL
from unmask.generation.strategies.memory import Memory
from unmask.generation.strategies.scored import Scored, log
from unmask.generation.strategy import Step, Transfer, best

# At most this share of the masks is written at once, but never held below the first number nor let above the second.
SHARE, FEW, MANY = 0.7, 5, 20


class Revoke(Scored):
    """What is at least `threshold` probable; what does not hold against all others is taken back (WINO)."""

    paper = "arXiv:2507.18578"
    knobs = "threshold, verify_threshold, score, commit_at_least"
    own_threshold = 0.6
    verifies: ClassVar[bool] = True

    def __init__(self, options: GenerationOptions) -> None:
        super().__init__(options)
        self.log_verify = log(options.verify_threshold)

    def init(self, rows: int) -> Memory:
        """How many tokens each row's last step wrote."""
        return Memory(rows)

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: Any) -> Transfer:
        """See `DecodingStrategy`.

        Raises:
            ValueError: the proposal has no `verify_log_prob_BL`.
        """
        check_BL = proposal.verify_log_prob_BL
        if check_BL is None:
            raise ValueError("the loop must verify what is written for a strategy that says so")
        pending_BL = proposal.pending_BL
        sure_BL = certainty_BL(self.score, proposal, step)
        most_B = (pending_BL.sum(1) * SHARE).long().clamp(FEW, MANY)
        likely_BL = (sure_BL >= self.log_threshold) & best(sure_BL, pending_BL, most_B)
        write_BL = self.enough(likely_BL, sure_BL, pending_BL, step)
        count_B = write_BL.sum(1)
        # In a block's first step nothing is there to take back.
        before_B = state.recall("written", torch.zeros_like(count_B), canvas, step)
        state.keep("written", count_B, canvas)
        allowed_B = torch.where(count_B > 1, before_B - 1, 0).clamp(min=0)
        position_L = torch.arange(pending_BL.shape[1], device=pending_BL.device)
        place_BL = position_L - step.first_B[:, None]
        written_BL = ~canvas.is_masked_BL & ~canvas.given_BL & (place_BL >= 0) & (place_BL < step.block_size)
        doubted_BL = written_BL & (check_BL < self.log_verify)
        return Transfer(write_BL, remask_BL=best(-check_BL, doubted_BL, allowed_B))
