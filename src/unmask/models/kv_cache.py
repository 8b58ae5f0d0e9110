"""Storage of keys and values: append, overwrite, place row by row, truncate. It knows no decoding method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class Fed(NamedTuple):
    """What a forward was asked for: `shape` [b, w], at which columns (the first of them, or int64 `[b, w]`), rows."""

    shape: tuple[int, int]
    columns: int | Tensor
    rows: Tensor | None

    @staticmethod
    def of(cache: KVCache, shape: tuple[int, int]) -> Fed:
        """What the next forward is asked for."""
        return Fed(shape, cache.start if cache.columns_BW is None else cache.columns_BW, cache.rows)


class KVCache:
    """Keys and values of all layers in buffers allocated once, `[layers, B, G, capacity, K]`.

    A forward pass writes the rows it was fed, by default at `start`, and attends to all columns in use. Before a
    forward, `place` says otherwise: other columns in each row, only some of the rows.

    Attributes:
        start: column where the next forward writes; `length` appends, a smaller value overwrites.
        length: columns in use.
        columns_BW: int64 `[b, w]`, where each row of the next forward writes; None: from `start` on.
        rows: int64 `[b]`, the batch rows that the next forward is for; None: all.
        scratch: how many of the last columns fed will be fed again, so that nobody needs their keys and values.
        computed: columns that the last forward computed in each row.
        watched_BW: bool `[b, w]`, columns of the next forward whose values' change is wanted; None: none.
        moved_B: float32 `[b]`, how far the last layer's values at the watched columns moved in the last forward, as a
            share of their length (Euclidean).
        hidden: last hidden states `[B, capacity, D]` of the columns in use, where predictions need those of the column
            before the rows that are fed; None until `remember` is called.
        share: of the columns fed next, the share that each layer computes anew, 1 being all of them; see `moved.py`.
            None: all, and nothing is kept for later shares.
        asked_BL: bool `[b, w]`, columns of the next forward that something is asked of: they come first among those
            that have moved as far. None: all alike.
        changes: what each layer last added to the stream, `[layers, B, capacity, D]`; None until a share is asked for.
    """

    def __init__(self, *, layers: int, shape_BGLK: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device):
        self.keys = torch.zeros(layers, *shape_BGLK, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.start = 0
        self.length = 0
        self.columns_BW: Tensor | None = None
        self.rows: Tensor | None = None
        self.scratch = 0
        self.computed = 0
        self.watched_BW: Tensor | None = None
        self.moved_B: Tensor | None = None
        self.hidden: Tensor | None = None
        self.share: float | None = None
        self.asked_BL: Tensor | None = None
        self.changes: Tensor | None = None

    @property
    def capacity(self) -> int:
        """Columns allocated."""
        return self.keys.shape[3]

    def place(self, columns: int | Tensor, length: int, *, rows: Tensor | None = None, scratch: int = 0) -> None:
        """Say where the next forward belongs.

        Args:
            columns: the first column, the others following; or int64 `[b, w]`, one column per token fed.
            length: columns that it attends to, from 0 on; what it may not see among them, its attention says.
            rows: int64 `[b]` batch rows; None: all.
            scratch: how many of the last columns fed will be fed again.

        Raises:
            ValueError: there are not so many columns.
        """
        if length > self.capacity:
            raise ValueError(f"{length} columns do not fit: {self.capacity} are allocated")
        self.columns_BW = columns if isinstance(columns, Tensor) else None
        self.start = 0 if isinstance(columns, Tensor) else columns
        self.length, self.rows, self.scratch, self.moved_B = length, rows, scratch, None

    def seen(self, fed: int) -> int:
        """Columns that the next forward attends to, when it is fed so many in each row."""
        return self.length if self.columns_BW is not None else max(self.length, self.start + fed)

    def drop_scratch(self) -> int:
        """Leave the scratch columns out of the next forward; returns how many they are.

        For predictions that need no row of theirs: causal ones, each made by the row before it.
        """
        dropped, self.scratch = self.scratch, 0
        self.length -= dropped
        if dropped and self.columns_BW is not None:
            self.columns_BW = self.columns_BW[:, :-dropped]
        return dropped

    def write(self, layer: int, k_BGLK: Tensor, v_BGLK: Tensor) -> tuple[Tensor, Tensor]:
        """Store rows where they belong; return keys and values of all columns in use after this forward.

        Raises:
            ValueError: the rows do not fit, or would leave a gap.
        """
        if self.watched_BW is not None and layer == len(self.values) - 1:
            self.moved_B = self._moved(v_BGLK.transpose(1, 2), self.watched_BW)
        if self.columns_BW is not None:
            return self._scatter(layer, k_BGLK, v_BGLK)
        self.check(k_BGLK.shape[2])
        end = self.start + k_BGLK.shape[2]
        used = self.seen(k_BGLK.shape[2])
        if self.rows is None:
            keys, values, fed = self.keys[layer], self.values[layer], end - self.start
            keys.narrow(2, self.start, fed).copy_(k_BGLK)
            values.narrow(2, self.start, fed).copy_(v_BGLK)
            return keys.narrow(2, 0, used), values.narrow(2, 0, used)
        self.keys[layer][self.rows, :, self.start : end] = k_BGLK.to(self.keys.dtype)
        self.values[layer][self.rows, :, self.start : end] = v_BGLK.to(self.values.dtype)
        return self.keys[layer][self.rows, :, :used], self.values[layer][self.rows, :, :used]

    def check(self, fed: int) -> None:
        """See that so many columns fit where the next forward writes.

        Raises:
            ValueError: they do not, or would leave a gap.
        """
        end = self.start + fed
        if self.columns_BW is None and (end > self.capacity or self.start > self.length):
            raise ValueError(f"rows {self.start}..{end} do not fit: {self.length} of {self.capacity} columns in use")

    def _moved(self, new_BWGK: Tensor, watched_BW: Tensor) -> Tensor:
        values, width = self.values[-1], new_BWGK.shape[1]
        rows = torch.arange(len(values), device=values.device) if self.rows is None else self.rows
        columns = self.columns_BW
        if columns is None:
            columns = torch.arange(self.start, self.start + width, device=values.device)[None]
        old_BWGK = values[rows[:, None], :, columns].float()
        change_B = ((new_BWGK.float() - old_BWGK).square().sum((2, 3)) * watched_BW).sum(1)
        length_B = (old_BWGK.square().sum((2, 3)) * watched_BW).sum(1)
        return (change_B / length_B.clamp(min=torch.finfo(torch.float32).tiny)).sqrt()

    def _scatter(self, layer: int, k_BGLK: Tensor, v_BGLK: Tensor) -> tuple[Tensor, Tensor]:
        assert self.columns_BW is not None
        keys, values, used = self.keys[layer], self.values[layer], self.length
        rows = torch.arange(len(keys), device=keys.device) if self.rows is None else self.rows
        keys[rows[:, None], :, self.columns_BW] = k_BGLK.transpose(1, 2).to(keys.dtype)
        values[rows[:, None], :, self.columns_BW] = v_BGLK.transpose(1, 2).to(values.dtype)
        if self.rows is None:
            return keys[:, :, :used], values[:, :, :used]
        return keys[rows, :, :used], values[rows, :, :used]

    def advance(self, rows: int) -> None:
        """Count the rows of a finished forward as stored; the next one appends."""
        self.computed = self.anew(rows)
        if self.columns_BW is None:
            self.length = max(self.length, self.start + rows)
        self.start, self.columns_BW, self.rows, self.watched_BW = self.length, None, None, None
        self.share, self.asked_BL = None, None

    def anew(self, fed: int) -> int:
        """How many of so many columns fed the next forward computes anew."""
        # rounded up, except for what is a whole number but for rounding
        return fed if self.share is None else math.ceil(self.share * fed - 1e-9)

    def places(self, rows: int, fed: int) -> tuple[Tensor, Tensor]:
        """Batch rows `[b, 1]` and columns `[b, w]` that the next forward writes, int64."""
        device = self.keys.device
        row_b = torch.arange(rows, device=device) if self.rows is None else self.rows
        if self.columns_BW is not None:
            return row_b[:, None], self.columns_BW
        return row_b[:, None], torch.arange(self.start, self.start + fed, device=device).expand(rows, -1)

    def changes_of(self, layer: int, like_BLD: Tensor) -> Tensor:
        """What a layer last added to the stream, `[B, capacity, D]`, to be written to."""
        if self.changes is None:
            layers, rows, _, capacity, _ = self.keys.shape
            self.changes = like_BLD.new_zeros(layers, rows, capacity, like_BLD.shape[-1])
        return self.changes[layer]

    def remember(self, fed: Fed, hidden_BLD: Tensor) -> None:
        """Keep the last hidden states of the columns that were fed."""
        batch, length, width = hidden_BLD.shape
        if self.hidden is None:
            self.hidden = hidden_BLD.new_zeros(max(self.keys.shape[1], batch), max(self.capacity, length), width)
        rows = torch.arange(batch, device=hidden_BLD.device) if fed.rows is None else fed.rows
        if isinstance(fed.columns, Tensor):
            self.hidden[rows[:, None], fed.columns[:, :length]] = hidden_BLD
        else:
            self.hidden[rows, fed.columns : fed.columns + length] = hidden_BLD

    def keep(self, rows: Sequence[int]) -> None:
        """Hold these batch rows, in this order; the others are dropped."""
        index = torch.tensor(list(rows), dtype=torch.int64, device=self.keys.device)
        self.keys, self.values = self.keys.index_select(1, index), self.values.index_select(1, index)
        if self.hidden is not None:
            self.hidden = self.hidden.index_select(0, index)
        if self.changes is not None:
            self.changes = self.changes.index_select(1, index)

    def widen(self, capacity: int) -> None:
        """Make room for more columns, keeping what is stored."""
        more = capacity - self.capacity
        if more <= 0:
            return
        self.keys, self.values = pad(self.keys, (0, 0, 0, more)), pad(self.values, (0, 0, 0, more))
        if self.hidden is not None:
            self.hidden = pad(self.hidden, (0, 0, 0, more))
        if self.changes is not None:
            self.changes = pad(self.changes, (0, 0, 0, more))

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
