"""Fill masks and mend what is written, until nothing changes (LLaDA2.1, arXiv:2602.08676; SGLang's JointThreshold).

Each step fills the masks that are sure enough, and replaces every written token of the block for which another one is
at least `edit_threshold` probable. It ends: a step with masks fills at least one and makes none, and after the last
mask at most `max_post_steps` steps follow.
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
from unmask.generation.strategy import Step, Transfer


class Edit(Scored):
    """What is at least `threshold` probable, and better tokens for those written before (LLaDA2.1)."""

    paper = "arXiv:2602.08676"
    knobs = "threshold, edit_threshold, max_post_steps, score, commit_at_least"
    own_threshold = 0.5
    reads_filled: ClassVar[bool] = True

    def __init__(self, options: GenerationOptions) -> None:
        super().__init__(options)
        self.log_edit = log(options.edit_threshold)
        self.max_post_steps = options.max_post_steps

    def init(self, rows: int) -> Memory:
        """How many steps each row's block has made without a mask."""
        return Memory(rows)

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: Any) -> Transfer:
        """See `DecodingStrategy`."""
        sure_BL = certainty_BL(self.score, proposal, step)
        masked_BL = proposal.pending_BL & canvas.is_masked_BL
        filled_BL = proposal.pending_BL & ~canvas.is_masked_BL
        fill_BL = self.enough(sure_BL >= self.log_threshold, sure_BL, masked_BL, step)
        is_other_BL = (proposal.predicted_BL != canvas.tokens_BL) & (proposal.log_prob_BL >= self.log_edit)
        edit_BL = filled_BL & is_other_BL
        had_masks_B = masked_BL.any(1)
        posts_B = state.recall("posts", torch.zeros_like(step.first_B), canvas, step) + (~had_masks_B).long()
        state.keep("posts", posts_B, canvas)
        stay_B = (had_masks_B | edit_BL.any(1)) & (posts_B < self.max_post_steps)
        return Transfer(fill_BL | edit_BL, stay_B=stay_B)
