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

from unmask.types import AttentionSpec


@dataclass(frozen=True)
class Canvas:
    """Rows of a batch, left-aligned; a shorter row is followed by padding that nobody sees.

    Attributes:
        tokens_BL: int64; at masked positions the mask token.
        is_masked_BL: bool; positions still to be written.
        given_BL: bool; positions that were there from the start and never change.
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

    def column(self, values: Sequence[int]) -> Int[Tensor, " B"]:
        """Host numbers, one per row, as int64 on the canvas's device."""
        return torch.tensor(values, dtype=torch.int64, device=self.tokens_BL.device)

    def window_BL(self, block: int, block_size: int) -> Bool[Tensor, "B L"]:
        """Positions of block number `block`; each row counts its blocks from its own start."""
        position_L = torch.arange(self.tokens_BL.shape[1], device=self.tokens_BL.device)
        first_B = self.column(self.starts) + block * block_size
        last_B = torch.minimum(first_B + block_size, self.column(self.ends))
        return (position_L >= first_B[:, None]) & (position_L < last_B[:, None])

    def attention(self, block_size: int | None = None) -> AttentionSpec | None:
        """Everybody sees everybody in a row, or, given a block size, their own block and those before it.

        None where nothing has to be hidden, so that no mask is made.
        """
        length = self.tokens_BL.shape[1]
        position_L, document_BL = torch.arange(length, device=self.tokens_BL.device), None
        if any(end < length for end in self.ends):
            document_BL = -(position_L >= self.column(self.ends)[:, None]).long()
        if block_size is not None and length > block_size:
            block_BL = (position_L // block_size)[None]
            return AttentionSpec("block_causal", document_BL=document_BL, packed=False, block_BL=block_BL)
        return None if document_BL is None else AttentionSpec(document_BL=document_BL, packed=False)

    def on_grid(self, block_size: int) -> Canvas:
        """The canvas with blocks that begin at multiples of their size, so that the first may begin with given text."""
        return replace(self, starts=tuple(start - start % block_size for start in self.starts))

    def up_to(self, block: int, block_size: int) -> Canvas:
        """The canvas without the columns behind block number `block` of every row."""
        behind = (start + (block + 1) * block_size for start in self.starts)
        length = max((min(after, end) for after, end in zip(behind, self.ends, strict=True)), default=0)
        return replace(
            self,
            tokens_BL=self.tokens_BL[:, :length],
            is_masked_BL=self.is_masked_BL[:, :length],
            given_BL=self.given_BL[:, :length],
            ends=tuple(min(end, length) for end in self.ends),
        )

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
        """The rows at these indices, cut to the longest of them."""
        if len(rows) == len(self.rows):
            return self
        length = max((self.ends[index] for index in rows), default=0)
        index_b = self.column(list(rows))
        return Canvas(
            tokens_BL=self.tokens_BL[index_b, :length],
            is_masked_BL=self.is_masked_BL[index_b, :length],
            given_BL=self.given_BL[index_b, :length],
            starts=tuple(self.starts[index] for index in rows),
            ends=tuple(self.ends[index] for index in rows),
            rows=tuple(self.rows[index] for index in rows),
        )

    def put(self, rows: Sequence[int], part: Canvas) -> Canvas:
        """The inverse of `take`: this canvas with `part` in place of the rows at these indices."""
        if part.tokens_BL.shape == self.tokens_BL.shape:
            return part
        index_b, length = self.column(list(rows)), part.tokens_BL.shape[1]
        tokens_BL, is_masked_BL = self.tokens_BL.clone(), self.is_masked_BL.clone()
        tokens_BL[index_b, :length] = part.tokens_BL
        is_masked_BL[index_b, :length] = part.is_masked_BL
        return replace(self, tokens_BL=tokens_BL, is_masked_BL=is_masked_BL)


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
    is_valid_BL = torch.arange(length) < torch.tensor(ends, dtype=torch.int64)[:, None]
    return Canvas(
        tokens_BL=tokens_BL.view(len(rows), length).to(device),
        is_masked_BL=is_masked_BL.view(len(rows), length).to(device),
        given_BL=(is_valid_BL & ~is_masked_BL.view(len(rows), length)).to(device),
        starts=starts,
        ends=ends,
        rows=tuple(range(len(rows))),
    )
