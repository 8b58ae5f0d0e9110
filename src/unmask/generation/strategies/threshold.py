"""Commit every token that is probable enough, and always the best one (Fast-dLLM, arXiv:2505.22618)."""

from __future__ import annotations

import math

import torch

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.strategy import Step, Transfer, best


class Threshold:
    """All pending positions whose proposed token has at least `threshold` probability; the quota plays no part."""

    def __init__(self, options: GenerationOptions) -> None:
        self.log_threshold = math.log(options.threshold) if options.threshold > 0 else -math.inf

    def init(self, rows: int) -> None:
        """Nothing is remembered."""
        del rows

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: None) -> Transfer:
        """See `DecodingStrategy`."""
        del canvas, state
        is_sure_BL = proposal.pending_BL & (proposal.log_prob_BL >= self.log_threshold)
        return Transfer(is_sure_BL | best(proposal.log_prob_BL, proposal.pending_BL, torch.ones_like(step.quota_B)))
