"""Write the best token of every stretch of masks, so that long stretches are split first (dInfer, arXiv:2510.08666).

A stretch is a run of masks of the block with nothing written in between. Its surest token is written where it is at
least `run_threshold` probable; tokens of at least `threshold` are written wherever they stand.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.strategies.scored import Scored, descending, log
from unmask.generation.strategy import Step


class Hierarchical(Scored):
    """What is at least `threshold` probable, and the best of each run of masks if it is at least `run_threshold`."""

    paper = "arXiv:2510.08666"
    knobs = "threshold, run_threshold, score, commit_at_least"

    def __init__(self, options: GenerationOptions) -> None:
        super().__init__(options)
        self.log_run = log(options.run_threshold)

    def accepts(
        self, certainty_BL: Float[Tensor, "B L"], proposal: Proposal, canvas: Canvas, step: Step, state: Any
    ) -> Bool[Tensor, "B L"]:
        """See `Scored`."""
        del canvas, step, state
        is_best_BL = best_of_runs(certainty_BL, proposal.pending_BL)
        return (certainty_BL >= self.log_threshold) | (is_best_BL & (certainty_BL >= self.log_run))


def best_of_runs(certainty_BL: Float[Tensor, "B L"], pending_BL: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """The surest position of each run of pending ones, the earlier one where they are equally sure."""
    length = pending_BL.shape[1]
    # positions that are not pending count for runs of their own, between the others
    ends_BL = torch.ones_like(pending_BL)
    ends_BL[:, 1:] = pending_BL[:, 1:] != pending_BL[:, :-1]
    run_BL = ends_BL.cumsum(1) - 1
    place_L = torch.arange(length, device=pending_BL.device)
    rank_BL = torch.empty_like(run_BL).scatter(1, descending(certainty_BL), place_L.expand_as(run_BL))
    best_BL = torch.full_like(run_BL, length).scatter_reduce(1, run_BL, rank_BL, "amin")
    return pending_BL & (rank_BL == best_BL.gather(1, run_BL))
