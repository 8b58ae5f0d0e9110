"""The places that hidden states are asked for, so that the last layer computes what these need and little more.

Its queries are then made at some columns only, its keys and values at all. Knows no layer and no head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unmask.models.attention import PreparedAttention
from unmask.models.rotary import Rotation


class Wanted(NamedTuple):
    """Where hidden states are asked for.

    Attributes:
        at: int64 `[n]` flat positions, counted within the columns.
        columns: those that they lie in; None: all.
        place_Bm: int64; the columns of each row, where all rows are asked for as many, one row after the other.
    """

    at: Tensor
    columns: slice | None = None
    place_Bm: Tensor | None = None

    @staticmethod
    def among(at_n: Tensor, batch: int, length: int, *, can_part: bool) -> Wanted:
        """For flat positions in `batch` rows of `length`; what asks is narrowed down if `can_part`.

        Not on a GPU, which would wait, nor where gradients are wanted, which take all columns.
        """
        if not can_part or at_n.device.type != "cpu" or at_n.numel() == 0 or torch.is_grad_enabled():
            return Wanted(at_n)
        if at_n.numel() % batch == 0:
            place_Bm = at_n.view(batch, -1) - torch.arange(0, batch * length, length)[:, None]
            if int(place_Bm.min()) >= 0 and int(place_Bm.max()) < length:
                return Wanted(at_n, place_Bm=place_Bm)
        column_n = at_n % length
        first, last = int(column_n.min()), int(column_n.max()) + 1
        if 2 * (last - first) > length:
            return Wanted(at_n)
        return Wanted(at_n // length * (last - first) + column_n - first, slice(first, last))

    @property
    def is_narrow(self) -> bool:
        """Whether not all columns ask."""
        return self.columns is not None or self.place_Bm is not None

    def asking(self, x_BL: Tensor) -> Tensor:
        """Of what is there for each column, `[B, L, ...]`, that from which queries are made."""
        if self.place_Bm is not None:
            return x_BL.flatten(0, 1).index_select(0, self.at).unflatten(0, self.place_Bm.shape)
        return x_BL if self.columns is None else x_BL[:, self.columns]

    def angles(self, rotation: Rotation) -> Rotation:
        """Those of what asks."""
        if self.place_Bm is not None:
            return rotation.at_places(self.place_Bm)
        return rotation if self.columns is None else rotation.part(self.columns)

    def sight(self, how: PreparedAttention) -> PreparedAttention:
        """What it sees."""
        if self.place_Bm is not None:
            return how.at_places(self.place_Bm)
        return how if self.columns is None else how.part(self.columns)

    def of(self, x_BLD: Tensor) -> Tensor:
        """The rows of a stream, `[B, m, D]` or `[1, n, D]`."""
        asking = self.asking(x_BLD)
        return asking if self.place_Bm is not None else asking.flatten(0, 1).index_select(0, self.at)[None]

    def of_seen(self, seen_BHLK: Tensor) -> Tensor:
        """The rows of what was seen, `[B, H, m, K]` or `[1, H, n, K]`."""
        if self.place_Bm is not None:
            return seen_BHLK
        return seen_BHLK.transpose(1, 2).flatten(0, 1).index_select(0, self.at).transpose(0, 1)[None]
