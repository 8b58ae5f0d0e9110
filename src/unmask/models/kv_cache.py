"""Storage of keys and values: append, overwrite a range, truncate. It knows no decoding method."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys and values of all layers in buffers allocated once, `[layers, B, G, capacity, K]`.

    A forward pass writes the rows it was fed at `start` and attends to everything stored before and after them.

    Attributes:
        start: column where the next forward writes; `length` appends, a smaller value overwrites.
        length: columns in use.
        hidden: last hidden states `[B, capacity, D]` of the columns in use, where predictions need those of the column
            before the rows that are fed; None until `remember` is called.
    """

    def __init__(self, *, layers: int, shape_BGLK: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device):
        self.keys = torch.zeros(layers, *shape_BGLK, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.start = 0
        self.length = 0
        self.hidden: Tensor | None = None

    @property
    def capacity(self) -> int:
        """Columns allocated."""
        return self.keys.shape[3]

    def write(self, layer: int, k_BGLK: Tensor, v_BGLK: Tensor) -> tuple[Tensor, Tensor]:
        """Store rows at `start`; return keys and values of all columns in use after this forward.

        Raises:
            ValueError: the rows do not fit, or would leave a gap.
        """
        end = self.start + k_BGLK.shape[2]
        if end > self.capacity or self.start > self.length:
            raise ValueError(f"rows {self.start}..{end} do not fit: {self.length} of {self.capacity} columns in use")
        self.keys[layer, :, :, self.start : end] = k_BGLK
        self.values[layer, :, :, self.start : end] = v_BGLK
        used = max(self.length, end)
        return self.keys[layer, :, :, :used], self.values[layer, :, :, :used]

    def advance(self, rows: int) -> None:
        """Count the rows of a finished forward as stored; the next one appends."""
        self.length = max(self.length, self.start + rows)
        self.start = self.length

    def remember(self, column: int, hidden_BLD: Tensor) -> None:
        """Keep the last hidden states of the rows that were fed at `column`."""
        if self.hidden is None:
            batch, length, width = hidden_BLD.shape
            self.hidden = hidden_BLD.new_zeros(batch, max(self.capacity, length), width)
        self.hidden[:, column : column + hidden_BLD.shape[1]] = hidden_BLD

    def overwrite_from(self, column: int) -> None:
        """Let the next forward replace the rows from `column` on, keeping those behind them."""
        if not 0 <= column <= self.length:
            raise ValueError(f"column {column} lies outside the {self.length} columns in use")
        self.start = column

    def truncate(self, length: int) -> None:
        """Forget everything from column `length` on."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate {self.length} columns to {length}")
        self.length = self.start = length
