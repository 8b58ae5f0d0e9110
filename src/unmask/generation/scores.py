"""How sure a proposed token is, on one scale for every rule of acceptance. Knows no rule and no threshold."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.diffusion.keys import Purpose
from unmask.generation.options import Score
from unmask.generation.proposal import Proposal
from unmask.generation.strategy import Step


def certainty_BL(score: Score, proposal: Proposal, step: Step) -> Float[Tensor, "B L"]:
    """Logarithm of a certainty between 0 and 1: finite where something is pending, -inf elsewhere.

    The certainty is the probability of the proposed token (confidence), what it is ahead of the second (margin), the
    inverse perplexity exp(-entropy) (entropy), or a number in [0, 1) that is a function of the row's seed, the step
    and the position (random).
    """
    if score == "confidence":
        return proposal.log_prob_BL
    if score == "margin":
        value_BL = proposal.margin_BL.clamp(min=0).log()
    elif score == "entropy":
        value_BL = -proposal.entropy_BL
    else:
        value_BL = step.uniforms_BL(Purpose.SCORE, proposal.pending_BL.shape[1]).log()
    lowest = torch.finfo(value_BL.dtype).min
    value_BL = value_BL.clamp(min=lowest).masked_fill(proposal.is_last_BL, lowest)
    return value_BL.masked_fill(~proposal.pending_BL, -torch.inf)
