"""Stand-ins that decide as a reference does where we decide otherwise, so that the rest of its run can be compared."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.strategy import Step, Transfer, best
from unmask.types import Denoiser, DenoiserOutput

# what float32 leaves open, of a probability or an entropy near a tie
TIE = 2e-6


class Follows:
    """Writes where a reference wrote; that must be where its own score is highest, but for ties.

    We break ties by position, the reference as its device's top-k happens to. The tokens are the loop's.

    Attributes:
        answers: for each row, what stands behind its prompt before the first step and after each.
    """

    answers: ClassVar[list[list[list[int]]]] = []

    def __init__(self, options: GenerationOptions) -> None:
        self.score = options.score

    def init(self, rows: int) -> list[int]:
        """How many steps each row has made."""
        return [0] * rows

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: list[int]) -> Transfer:
        """See `DecodingStrategy`."""
        pending_BL = proposal.pending_BL
        score_BL = torch.full(pending_BL.shape, -torch.inf).masked_scatter(pending_BL, self._score(proposal))
        write_BL = torch.zeros_like(pending_BL)
        for index, row in enumerate(canvas.rows):
            before, after = self.answers[row][state[row] : state[row] + 2]
            state[row] += 1
            first = step.blocks[index] * step.block_size
            for place in range(pending_BL.shape[1]):
                write_BL[index, place] = before[first + place] != after[first + place]
            left_L = pending_BL[index] & ~write_BL[index]
            assert int(write_BL[index].sum()) == int(step.quota_B[index])
            if left_L.any():
                assert score_BL[index][write_BL[index]].min() >= score_BL[index][left_L].max() - TIE
        return Transfer(write_BL)

    def _score(self, proposal: Proposal) -> Tensor:
        """The score as dLLM computes it, in float32, where the best tokens are often as probable as can be."""
        p_nV = proposal.logits_nV.softmax(-1)
        if self.score == "entropy":
            return (p_nV * torch.log(p_nV + 1e-10)).sum(-1)
        best_n2 = p_nV.topk(2, dim=-1).values
        return best_n2[:, 0] - best_n2[:, 1] if self.score == "margin" else best_n2[:, 0]


class Rounded(Follows):
    """The quota of highest score in float32, where many are equal that we tell apart; the first of those."""

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: list[int]) -> Transfer:
        """See `DecodingStrategy`."""
        del canvas, state
        pending_BL = proposal.pending_BL
        score_BL = torch.full(pending_BL.shape, -torch.inf).masked_scatter(pending_BL, self._score(proposal))
        return Transfer(best(score_BL, pending_BL, step.quota_B))


def proposes_masks(model: Denoiser, mask_token_id: int) -> Denoiser:
    """The model with a second name for its mask token, the last id, so that it has a share in what may be proposed."""

    def denoise(tokens_BL: Tensor, **rest: Any) -> DenoiserOutput:
        logits_nV = model(tokens_BL.clamp(max=mask_token_id), **rest).logits
        assert logits_nV is not None and logits_nV.shape[1] == mask_token_id + 1
        return DenoiserOutput(logits=torch.cat([logits_nV, logits_nV[:, mask_token_id:]], 1))

    denoise.new_cache = getattr(model, "new_cache", None)  # type: ignore[attr-defined]
    return denoise
