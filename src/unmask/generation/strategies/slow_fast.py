"""Explore slowly until the end of a sure stretch settles, then decode the stretch fast (SlowFast, arXiv:2506.10848).

A cycle begins where the last stretch ended. Slow steps look at all that is left of the block and estimate the stretch's
end: the last position that is at least `span_threshold` probable. Two estimates that differ by less than two positions
settle it (their standard deviation is below one); after `slow_steps` it is their mean. Fast steps then decode the
stretch only, until it is filled. In both, tokens of at least `threshold` probability are committed, else the best one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.scores import certainty_BL
from unmask.generation.strategies.memory import Memory
from unmask.generation.strategies.scored import Scored, log
from unmask.generation.strategy import Step, Transfer


class Cycle(NamedTuple):
    """Where each row stands, int64: the stretch, as places in the block; slow steps made; the last estimate."""

    begin_B: Tensor
    end_B: Tensor
    slow_B: Tensor
    estimate_B: Tensor
    is_fast_B: Tensor


class SlowFast(Scored):
    """What is at least `threshold` probable, or the best one, within a stretch that was explored (SlowFast)."""

    paper = "arXiv:2506.10848"
    knobs = "threshold, slow_steps, span_threshold, score, commit_at_least"

    def __init__(self, options: GenerationOptions) -> None:
        super().__init__(options)
        self.slow_steps = options.slow_steps
        self.log_span = log(options.span_threshold)

    def init(self, rows: int) -> Memory:
        """Each row's cycle."""
        return Memory(rows)

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: Any) -> Transfer:
        """See `DecodingStrategy`."""
        sure_BL = certainty_BL(self.score, proposal, step)
        position_L = torch.arange(sure_BL.shape[1], device=sure_BL.device)
        place_BL = position_L - step.first_B[:, None]
        cycle = self._begun(self._recalled(canvas, step, state), proposal.pending_BL, place_BL)
        allowed_BL = proposal.pending_BL & (~cycle.is_fast_B[:, None] | (place_BL < cycle.end_B[:, None]))
        explored = self._explored(cycle, sure_BL, place_BL)
        for name, values_B in explored._asdict().items():
            state.keep(name, values_B, canvas)
        return Transfer(self.enough(sure_BL >= self.log_threshold, sure_BL, allowed_BL, step))

    def _recalled(self, canvas: Canvas, step: Step, state: Memory) -> Cycle:
        zero_B = torch.zeros_like(step.first_B)
        fresh = Cycle(zero_B, zero_B, zero_B, zero_B, zero_B.bool())
        return Cycle(*(state.recall(name, values_B, canvas, step) for name, values_B in fresh._asdict().items()))

    def _begun(self, cycle: Cycle, pending_BL: Bool[Tensor, "B L"], place_BL: Int[Tensor, "B L"]) -> Cycle:
        """The cycle, or a new one where the stretch is filled."""
        is_filled_B = ~(pending_BL & (place_BL < cycle.end_B[:, None])).any(1)
        is_new_B = cycle.is_fast_B & is_filled_B
        return cycle._replace(
            begin_B=torch.where(is_new_B, cycle.end_B, cycle.begin_B),
            slow_B=cycle.slow_B.masked_fill(is_new_B, 0),
            is_fast_B=cycle.is_fast_B & ~is_new_B,
        )

    def _explored(self, cycle: Cycle, sure_BL: Float[Tensor, "B L"], place_BL: Int[Tensor, "B L"]) -> Cycle:
        """The cycle after this step's estimate; rows that decode fast keep theirs."""
        reach_BL = torch.where(sure_BL >= self.log_span, place_BL + 1, 0)
        estimate_B = torch.maximum(reach_BL.amax(1), cycle.begin_B + 1)
        slow_B = cycle.slow_B + 1
        is_settled_B = (slow_B > 1) & ((estimate_B - cycle.estimate_B).abs() < 2)
        mean_B = torch.where(slow_B > 1, (estimate_B + cycle.estimate_B) // 2, estimate_B)
        end_B = torch.maximum(torch.where(is_settled_B, estimate_B, mean_B), cycle.begin_B + 1)
        was_fast_B = cycle.is_fast_B
        return cycle._replace(
            end_B=torch.where(was_fast_B, cycle.end_B, end_B),
            slow_B=slow_B,
            estimate_B=estimate_B,
            is_fast_B=was_fast_B | is_settled_B | (slow_B >= self.slow_steps),
        )
