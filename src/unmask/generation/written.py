"""What one step wrote, on the device, and the commits that it amounts to on the host."""

from __future__ import annotations

from typing import NamedTuple

import torch

from unmask.generation.canvas import Canvas, on_host
from unmask.generation.proposal import Proposal
from unmask.generation.strategy import Step, Transfer
from unmask.generation.trace import Commit


class Written(NamedTuple):
    """One step, still on the device: the active blocks of the rows that took part, after it, and where they begin."""

    numbers: tuple[int, ...]
    firsts: tuple[int, ...]
    window: Canvas
    step: Step
    proposal: Proposal
    transfer: Transfer


def commits_of(written: Written) -> list[Commit]:
    """One `Commit` per row of a step."""
    transfer, step = written.transfer, written.step
    remask_BL = transfer.remask_BL if transfer.remask_BL is not None else torch.zeros_like(transfer.write_BL)
    tensors = (transfer.write_BL, remask_BL, written.window.tokens_BL, written.proposal.log_prob_BL.exp())
    write, remask, tokens, probability = (tensor.cpu() for tensor in tensors)
    return [
        Commit(
            row=number,
            step=step.number,
            block=step.blocks[index],
            positions=tuple(first + place for place in on_host(write[index].nonzero()[:, 0])),
            token_ids=tuple(on_host(tokens[index][write[index]])),
            confidences=tuple(on_host(probability[index][write[index]])),
            remasked=tuple(first + place for place in on_host(remask[index].nonzero()[:, 0])),
        )
        for index, (number, first) in enumerate(zip(written.numbers, written.firsts, strict=True))
    ]
