"""Commit what is probable and has stopped changing (KLASS, arXiv:2511.05664).

A prediction is stable when KL(now || one step ago) was below `kl_threshold` for `kl_history` steps in a row. The
reference looks at predictions behind the block, too; here they begin with the block, as no others are computed.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.strategies.memory import Memory, pending_places
from unmask.generation.strategies.scored import Scored
from unmask.generation.strategy import Step


class Klass(Scored):
    """What is at least `threshold` probable and has stopped changing; else the best one (KLASS)."""

    paper = "arXiv:2511.05664"
    knobs = "threshold, kl_threshold, kl_history, score, commit_at_least"

    def __init__(self, options: GenerationOptions) -> None:
        super().__init__(options)
        self.least_change = options.kl_threshold
        self.history = options.kl_history

    def init(self, rows: int) -> Memory:
        """The last prediction at each position of the block, and how long it has been stable."""
        return Memory(rows)

    def accepts(
        self, certainty_BL: Float[Tensor, "B L"], proposal: Proposal, canvas: Canvas, step: Step, state: Any
    ) -> Bool[Tensor, "B L"]:
        """See `Scored`."""
        steps_BL = self._stable_steps(proposal, canvas, step, state)
        return (certainty_BL >= self.log_threshold) & (steps_BL >= self.history)

    def _stable_steps(self, proposal: Proposal, canvas: Canvas, step: Step, state: Memory) -> Int[Tensor, "B L"]:
        """For how many steps each pending prediction has been stable; this step's predictions are kept."""
        index_n, row_n, offset_n = pending_places(proposal.pending_BL, len(proposal.logits_nV), canvas, step)
        now_nV = proposal.logits_nV.log_softmax(-1)
        before_RWV = state.room("prediction", now_nV[:, None].expand(-1, step.block_size, -1))
        steps_RW = state.room("steps", index_n[:, None].expand(-1, step.block_size))
        change_n = divergence(now_nV, before_RWV[row_n, offset_n])
        has_past_n = (step.within_B > 0)[index_n // proposal.pending_BL.shape[1]]
        is_stable_n = has_past_n & (change_n < self.least_change)
        steps_n = torch.where(is_stable_n, steps_RW[row_n, offset_n] + 1, 0)
        before_RWV[row_n, offset_n], steps_RW[row_n, offset_n] = now_nV, steps_n
        return torch.zeros_like(proposal.predicted_BL).masked_scatter(proposal.pending_BL, steps_n)


def divergence(log_p_nV: Float[Tensor, "n V"], log_q_nV: Float[Tensor, "n V"]) -> Float[Tensor, " n"]:
    """KL(p || q) in nats of each row; a token without probability in p adds nothing."""
    p_nV = log_p_nV.exp()
    return torch.where(p_nV > 0, p_nV * (log_p_nV - log_q_nV), 0.0).sum(-1)
