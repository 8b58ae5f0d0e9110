"""What is asked once per update, of all processes, before the optimizer moves: is everything a number, must we stop?

It is the only moment of an update at which the processor waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# updates without numbers in a row after which going on would be waiting for a wonder
IN_A_ROW = 3


@dataclass(frozen=True)
class Answer:
    """What all processes agree on.

    Attributes:
        is_finite: loss and gradients are numbers everywhere. is_called: a signal came somewhere.
    """

    is_finite: bool
    is_called: bool


def ask(loss: Tensor, grad_norm: Any, *, is_called: bool) -> Answer:
    """Ask all processes; the same answer to each.

    Args:
        loss: float, this process's share of the update's loss. grad_norm: of the whole update, before clipping.
        is_called: a signal came to this process.
    """
    norm = grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm
    broken = ~(torch.isfinite(loss) & torch.isfinite(torch.as_tensor(norm, device=loss.device)))
    said = torch.stack([broken.float(), torch.full((), float(is_called), device=loss.device)])
    if dist.is_initialized():
        dist.all_reduce(said)
    broken_anywhere, called_anywhere = (said > 0).tolist()
    return Answer(not broken_anywhere, called_anywhere)


@dataclass
class Skips:
    """Updates that were left out because something in them was no number.

    Attributes:
        total: in this run. in_a_row: since the last one that was a number.
    """

    total: int = 0
    in_a_row: int = 0

    def note(self, *, skipped: bool) -> None:
        """Count an update."""
        self.total += skipped
        self.in_a_row = self.in_a_row + 1 if skipped else 0
