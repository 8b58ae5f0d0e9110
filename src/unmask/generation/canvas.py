"""The canvas: rows of given text and of positions being written.

What is given and what is masked are booleans that travel with the tokens, so a prompt may contain any id, the mask's
included. Knows no model and no algorithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Canvas:
    """Rows of a batch, left-aligned; a shorter row is followed by padding that nobody sees.

    Attributes:
        tokens_BL: int64; at masked positions the mask token.
        is_masked_BL: bool; positions still to be written.
        given_BL: bool; positions that were there from the start and never change, padding included.
        starts: where the first block of each row begins.
        ends: where each row ends; positions from there on are padding.
        rows: number of each row in the request.
    """

    tokens_BL: Int[Tensor, "B L"]
    is_masked_BL: Bool[Tensor, "B L"]
    given_BL: Bool[Tensor, "B L"]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    rows: tuple[int, ...]

    @property
    def writable(self) -> int:
        """Length of the longest area being written, in tokens."""
        return max((end - start for start, end in zip(self.starts, self.ends, strict=True)), default=0)

    @property
    def length(self) -> int:
        """Columns up to the end of the longest row; what lies behind them is room."""
        return max(self.ends, default=0)

    def column(self, values: Sequence[int]) -> Int[Tensor, " B"]:
        """Host numbers, one per row, as int64 on the canvas's device."""
        return torch.tensor(values, dtype=torch.int64, device=self.tokens_BL.device)

    def on_grid(self, block_size: int) -> Canvas:
        """The canvas with blocks that begin at multiples of their size, so that the first may begin with given text."""
        return replace(self, starts=tuple(start - start % block_size for start in self.starts))

    def widened(self, columns: int, filler_id: int) -> Canvas:
        """A copy with room: at least `columns` of them, the new ones holding nothing that can be seen or written."""
        extra = max(columns - self.tokens_BL.shape[1], 0)
        return replace(
            self,
            tokens_BL=pad(self.tokens_BL, (0, extra), value=filler_id).clone(),
            is_masked_BL=pad(self.is_masked_BL, (0, extra)).clone(),
            given_BL=pad(self.given_BL, (0, extra), value=True).clone(),
        )

    def lengthened(self, row: int, column: int, count: int, filler_id: int, room: int) -> Canvas:
        """A copy in which `count` masks stand before a column of a row, and what stood from there on behind them.

        `room`: columns that there are at least behind the row's new end.
        """
        wide, end = self.widened(self.ends[row] + count + room, filler_id), self.ends[row]
        fillers = ((wide.tokens_BL, filler_id), (wide.is_masked_BL, True), (wide.given_BL, False))
        for values_BL, filler in fillers:
            values_BL[row, column + count : end + count] = values_BL[row, column:end].clone()
            values_BL[row, column : column + count] = filler
        return replace(wide, ends=(*self.ends[:row], end + count, *self.ends[row + 1 :]))

    def window(self, rows: Sequence[int], firsts: Sequence[int], width: int) -> Canvas:
        """Columns `firsts[i]` to `firsts[i] + width` of row `rows[i]`, as a canvas of its own; there must be so many.

        What lies behind a row's end is neither masked nor editable there.
        """
        ends = tuple(min(self.ends[row] - first, width) for row, first in zip(rows, firsts, strict=True))
        where = self._where(rows, firsts, width)
        return Canvas(
            tokens_BL=self.tokens_BL[where],
            is_masked_BL=self.is_masked_BL[where],
            given_BL=self.given_BL[where],
            starts=(0,) * len(ends),
            ends=ends,
            rows=tuple(self.rows[row] for row in rows),
        )

    def tokens(self, rows: Sequence[int], firsts: Sequence[int], width: int) -> Int[Tensor, "b W"]:
        """The tokens of a window, alone."""
        return self.tokens_BL[self._where(rows, firsts, width)]

    def gathered(self, rows: Sequence[int], column_BW: Int[Tensor, "B W"]) -> Canvas:
        """Any columns of some rows, as a canvas of its own."""
        where, width = (self.column(rows)[:, None], column_BW), column_BW.shape[1]
        numbers = tuple(self.rows[row] for row in rows)
        tensors = (self.tokens_BL[where], self.is_masked_BL[where], self.given_BL[where])
        return Canvas(*tensors, starts=(0,) * len(numbers), ends=(width,) * len(numbers), rows=numbers)

    def write(self, rows: Sequence[int], firsts: Sequence[int], part: Canvas) -> None:
        """The inverse of `window`, in place."""
        where = self._where(rows, firsts, part.tokens_BL.shape[1])
        self.tokens_BL[where] = part.tokens_BL
        self.is_masked_BL[where] = part.is_masked_BL

    def _where(self, rows: Sequence[int], firsts: Sequence[int], width: int) -> Any:
        """An index of windows: a slice where they stand side by side in all rows."""
        if len(rows) == len(self.rows) and len(set(firsts)) == 1:
            return slice(None), slice(firsts[0], firsts[0] + width)
        column_BW = self.column(firsts)[:, None] + torch.arange(width, device=self.tokens_BL.device)
        return self.column(rows)[:, None], column_BW

    def apply(
        self,
        write_BL: Bool[Tensor, "B L"],
        predicted_BL: Int[Tensor, "B L"],
        remask_BL: Bool[Tensor, "B L"] | None,
        mask_token_id: int,
    ) -> Canvas:
        """The canvas with predictions written, then positions masked again. Given positions stay as they are."""
        write_BL = write_BL & ~self.given_BL
        tokens_BL = torch.where(write_BL, predicted_BL, self.tokens_BL)
        is_masked_BL = self.is_masked_BL & ~write_BL
        if remask_BL is not None:
            remask_BL = remask_BL & ~self.given_BL
            tokens_BL = tokens_BL.masked_fill(remask_BL, mask_token_id)
            is_masked_BL = is_masked_BL | remask_BL
        return replace(self, tokens_BL=tokens_BL, is_masked_BL=is_masked_BL)

    def take(self, rows: Sequence[int]) -> Canvas:
        """The rows at these indices."""
        index_b = self.column(rows)
        return Canvas(
            tokens_BL=self.tokens_BL[index_b],
            is_masked_BL=self.is_masked_BL[index_b],
            given_BL=self.given_BL[index_b],
            starts=tuple(self.starts[index] for index in rows),
            ends=tuple(self.ends[index] for index in rows),
            rows=tuple(self.rows[index] for index in rows),
        )

    def cut(self, room: int = 0) -> Canvas:
        """The canvas without the columns that lie more than `room` behind its longest row."""
        columns = self.length + room
        return replace(
            self,
            tokens_BL=self.tokens_BL[:, :columns],
            is_masked_BL=self.is_masked_BL[:, :columns],
            given_BL=self.given_BL[:, :columns],
        )


def joined(parts: Sequence[Canvas], filler_id: int, *, ordered: bool = True) -> Canvas:
    """The rows of several canvases under each other, in the order of their numbers unless `ordered` is off."""
    columns = max((part.tokens_BL.shape[1] for part in parts), default=0)
    parts = [part.widened(columns, filler_id) for part in parts]
    whole = Canvas(
        tokens_BL=torch.cat([part.tokens_BL for part in parts]),
        is_masked_BL=torch.cat([part.is_masked_BL for part in parts]),
        given_BL=torch.cat([part.given_BL for part in parts]),
        starts=tuple(start for part in parts for start in part.starts),
        ends=tuple(end for part in parts for end in part.ends),
        rows=tuple(row for part in parts for row in part.rows),
    )
    return whole.take(sorted(range(len(whole.rows)), key=lambda index: whole.rows[index])) if ordered else whole


def on_host(values: Tensor) -> list[Any]:
    """The numbers of a tensor as (nested) lists; waits for the device."""
    return cast("list[Any]", values.tolist())  # pyright: ignore[reportUnknownMemberType]


def continuation(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, mask_token_id: int, device: torch.device | str
) -> Canvas:
    """Each prompt with `max_new_tokens` masks directly after it."""
    rows = [[*prompt, *[mask_token_id] * max_new_tokens] for prompt in prompts]
    masked = [[False] * len(prompt) + [True] * max_new_tokens for prompt in prompts]
    return _canvas(rows, masked, tuple(len(prompt) for prompt in prompts), mask_token_id, device)


def blanks(
    rows: Sequence[Sequence[int]], editable: Sequence[Sequence[bool]], mask_token_id: int, device: torch.device | str
) -> Canvas:
    """Rows in which the editable positions are masked, whatever stood there; blocks count from the row's beginning."""
    filled = [
        [mask_token_id if blank else token for token, blank in zip(row, blank_row, strict=True)]
        for row, blank_row in zip(rows, editable, strict=True)
    ]
    return _canvas(filled, [list(row) for row in editable], (0,) * len(rows), mask_token_id, device)


def _canvas(
    rows: list[list[int]],
    masked: list[list[bool]],
    starts: tuple[int, ...],
    filler_id: int,
    device: torch.device | str,
) -> Canvas:
    ends = tuple(len(row) for row in rows)
    length = max(ends, default=0)
    tokens_BL = torch.tensor([row + [filler_id] * (length - len(row)) for row in rows], dtype=torch.int64)
    is_masked_BL = torch.tensor([row + [False] * (length - len(row)) for row in masked], dtype=torch.bool)
    return Canvas(
        tokens_BL=tokens_BL.view(len(rows), length).to(device),
        is_masked_BL=is_masked_BL.view(len(rows), length).to(device),
        given_BL=~is_masked_BL.view(len(rows), length).to(device),
        starts=starts,
        ends=ends,
        rows=tuple(range(len(rows))),
    )
