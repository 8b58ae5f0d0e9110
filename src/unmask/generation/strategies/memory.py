"""What a strategy remembers of each row between the steps of a block, as tensors on the device.

Rows go by the numbers in `canvas.rows`. What is known of a row is forgotten where its block begins, so nothing passes
from one block, or one request, to the next.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.strategy import Step


class Memory:
    """Named tensors with one entry per row number, made when they are first kept."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._kept: dict[str, Tensor] = {}

    def recall(self, name: str, fresh: Shaped[Tensor, "B *rest"], canvas: Canvas, step: Step) -> Tensor:
        """What was kept of each row under this name; `fresh` where the row's block begins, or nothing was kept."""
        if name not in self._kept:
            return fresh
        begins_B = (step.within_B == 0).view(-1, *[1] * (fresh.dim() - 1))
        return torch.where(begins_B, fresh, self._kept[name][row_numbers(canvas)])

    def keep(self, name: str, values: Shaped[Tensor, "B *rest"], canvas: Canvas) -> None:
        """Remember one value per row."""
        self.room(name, values)[row_numbers(canvas)] = values

    def room(self, name: str, like: Shaped[Tensor, "_ *rest"]) -> Tensor:
        """The tensor that is kept under this name: `[rows, *rest]`, of the type of `like`, zeros at first."""
        if name not in self._kept:
            self._kept[name] = like.new_zeros(self._rows, *like.shape[1:])
        return self._kept[name]


def row_numbers(canvas: Canvas) -> Int[Tensor, " B"]:
    """`canvas.rows` as int64 on the device."""
    return canvas.column(canvas.rows)


def pending_places(
    pending_BL: Bool[Tensor, "B L"], count: int, canvas: Canvas, step: Step
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Of n pending positions in row-major order: index into B x L, the row's number, the place in its block."""
    length = pending_BL.shape[1]
    # A stable sort brings them to the front without asking the device how many there are.
    index_n = (~pending_BL).flatten().argsort(stable=True)[:count]
    index_B = index_n // length
    return index_n, row_numbers(canvas)[index_B], index_n % length - step.first_B[index_B]
