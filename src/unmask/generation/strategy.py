"""The seam between the loop and the rules that choose which positions to commit.

A strategy is made from the options. It answers one question, vectorised over the batch and without asking the device
for a number: which pending positions are written now.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.diffusion.keys import Purpose, uniforms
from unmask.generation.canvas import Canvas, on_host
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal


@dataclass(frozen=True)
class Transfer:
    """What a strategy decided.

    Attributes:
        write_BL: bool; positions that take the proposed token. On a position that is filled it is an edit.
        remask_BL: bool; filled positions that become masked again; None: none.
        stay_B: bool; rows that need another step in their block even if nothing in it is masked; None: none.
    """

    write_BL: Bool[Tensor, "B L"]
    remask_BL: Bool[Tensor, "B L"] | None = None
    stay_B: Bool[Tensor, " B"] | None = None


@dataclass(frozen=True)
class Step:
    """Where the loop stands; B rows take part in this step, each in a block of its own.

    Attributes:
        number: steps made before this one.
        blocks: number of the active block of each row.
        withins: how many steps each row has made in its block before this one; 0 where a block begins.
        block_size: tokens of a full block.
        first_B: int64; where the block begins in each row.
        quota_B: int64; commits that the reveal schedule asks of each row.
        seeds: seed of each row.
        growths: how often each row grew; empty: none did.
    """

    number: int
    blocks: tuple[int, ...]
    withins: tuple[int, ...]
    block_size: int
    first_B: Int[Tensor, " B"]
    quota_B: Int[Tensor, " B"]
    seeds: tuple[int, ...]
    growths: tuple[int, ...] = ()

    @cached_property
    def within_B(self) -> Int[Tensor, " B"]:
        """`withins` as int64 on the device."""
        return torch.tensor(self.withins, dtype=torch.int64, device=self.first_B.device)

    def uniforms_BL(self, purpose: Purpose, length: int) -> Float[Tensor, "B L"]:
        """Float64 numbers in [0, 1) for the block's positions, each a function of (row's seed, step, position) only.

        The numbers of a row do not depend on the other rows of the batch. Outside the block they mean nothing.
        """
        width = min(self.block_size, length)
        numbers_BW = torch.stack(
            [
                uniforms(width, seed=seed, purpose=purpose, key=(block, within, growths))
                for seed, block, within, growths in zip(
                    self.seeds, self.blocks, self.withins, self.growths or (0,) * len(self.seeds), strict=True
                )
            ]
        )
        position_L = torch.arange(length, device=self.first_B.device)
        offset_BL = (position_L - self.first_B[:, None]).clamp(0, width - 1)
        return numbers_BW.to(offset_BL.device).gather(1, offset_BL)


class DecodingStrategy(Protocol):
    """Chooses which positions to commit; at least one in each row that has a pending position.

    A class may say `reads_filled = True`: it is shown a proposal for the filled positions of the block, too, as long as
    they were not given; or `verifies = True`: it is told how probable each of those tokens is when it is hidden. It may
    have a method `adjusted(logits_nV, pending_BL, canvas, step, state)`, asked before `select`: it gives logits that
    the proposal is made from, instead of the model's (in which what is never proposed is at -inf).
    """

    def __init__(self, options: GenerationOptions) -> None:
        """Take the settings it needs."""
        ...

    def init(self, rows: int) -> Any:
        """The state of up to `rows` rows at a time; `canvas.rows` says which of them take part in a step.

        A row's number may pass to another row: forget what is known of a row where its block begins (`withins` is 0).
        """
        ...

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: Any) -> Transfer:
        """Choose. May change `state`, never the other arguments."""
        ...


def best(
    score_BL: Float[Tensor, "B L"], pending_BL: Bool[Tensor, "B L"], quota_B: Int[Tensor, " B"]
) -> Bool[Tensor, "B L"]:
    """The `quota_B` pending positions of highest score in each row, the earlier one where scores are equal."""
    score_BL = torch.where(pending_BL, score_BL, -torch.inf)
    # one of each, the usual case, takes no sorting; a processor need not be waited for
    if score_BL.device.type == "cpu" and max(quotas := on_host(quota_B), default=0) == 1 == min(quotas):
        return torch.zeros_like(pending_BL).scatter_(1, score_BL.argmax(1, keepdim=True), True) & pending_BL
    order_BL = score_BL.argsort(dim=1, descending=True, stable=True)
    rank_L = torch.arange(score_BL.shape[1], device=score_BL.device)
    is_chosen_BL = (rank_L < quota_B[:, None]).expand_as(order_BL)
    return torch.zeros_like(pending_BL).scatter(1, order_BL, is_chosen_BL) & pending_BL
