"""One call of the denoiser, as a plan of the cache says: which columns are fed, who sees whom, where logits are wanted.

Knows no strategy and does not choose what is fed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.errors import ConfigError, ModelError
from unmask.generation.caching import CachePlan
from unmask.generation.canvas import Canvas
from unmask.generation.guidance import hide_given, mix, twice
from unmask.generation.options import GenerationOptions
from unmask.types import AttentionSpec, Denoiser


@dataclass(frozen=True)
class Question:
    """What is wanted of a forward.

    Attributes:
        live: all rows under way.
        plan: which of them, and what is fed of each.
        firsts: column of the active block of each row of the plan.
        wanted_BW: bool; positions of the active blocks where logits are wanted.
        hidden_BW: bool; positions of the active blocks that are predicted with their own token hidden; None: none.
    """

    live: Canvas
    plan: CachePlan
    firsts: Sequence[int]
    wanted_BW: Bool[Tensor, "B W"]
    hidden_BW: Bool[Tensor, "B W"] | None = None


class Feeder:
    """Asks the denoiser, and keeps its cache.

    Attributes:
        computed: columns computed per row by the last call, guidance's second half included.
    """

    def __init__(
        self, denoiser: Denoiser, options: GenerationOptions, *, mask_token_id: int, block_size: int, hides_later: bool
    ) -> None:
        self.denoiser, self.options, self.mask_token_id = denoiser, options, mask_token_id
        self.block_size, self.hides_later = block_size, hides_later
        self.is_guided = options.guidance_scale > 0
        self.computed = 0
        self._cache: Any = None
        self._held = 0

    def logits(self, question: Question) -> Float[Tensor, "n V"]:
        """Logits at the wanted positions, row by row; then, row by row, at the hidden ones."""
        plan, live = question.plan, question.live
        columns = _columns(plan, live)
        if columns.index is None:
            fed = live.window(plan.rows, columns.firsts, columns.width)
        else:
            fed = live.gathered(plan.rows, columns.index)
        keys = max(columns.keys, live.length if plan.stores and not self.hides_later else 0)
        attention = self._attention(question, keys)
        at_n = self._at(question, columns)
        positions, cache = columns.index, None
        if plan.stores:
            cache, positions = self._placed(question, columns, keys), None
        tokens_BL = fed.tokens_BL
        if question.hidden_BW is not None:
            tokens_BL, positions, attention, at_n = self._with_shadows(question, columns, tokens_BL, attention, at_n)
        if self.is_guided:
            without_BL = hide_given(fed, self.mask_token_id, tuple(self.options.guidance_keep))
            shadows = tokens_BL[:, fed.tokens_BL.shape[1] :]
            at_n = torch.cat([at_n, at_n + tokens_BL.numel()])
            tokens_BL = torch.cat([tokens_BL, torch.cat([without_BL, shadows], 1)])
            attention = twice(attention, len(plan.rows))
            positions = positions.repeat(2, 1) if positions is not None and len(positions) > 1 else positions
        rest = {} if positions is None else {"positions": positions}
        output = self.denoiser(tokens_BL, attention=attention, cache=cache, logits_at=at_n, **rest)
        if output.logits is None:
            raise ModelError("The denoiser returned no logits at the positions asked for; generation needs them.")
        width = cache.computed if cache is not None else tokens_BL.shape[1]
        self.computed = width * (2 if self.is_guided else 1)
        return mix(output.logits, self.options.guidance_scale) if self.is_guided else output.logits

    def keep(self, rows: Sequence[int], of: int) -> None:
        """Forget all but these of `of` rows."""
        if self._cache is not None and rows:
            self._cache.keep([*rows, *(of + row for row in rows)] if self.is_guided else rows)
            self._held = len(rows)

    def _attention(self, question: Question, keys: int) -> AttentionSpec | None:
        """Who sees whom among the first `keys` columns; None where all that is there may be seen."""
        plan, live = question.plan, question.live
        position_L = torch.arange(keys, device=live.tokens_BL.device)
        ends = [live.ends[row] for row in plan.rows]
        document_BL = None
        if any(end < keys for end in ends) or plan.unseen:
            is_unseen_BL = position_L >= live.column(ends)[:, None]
            if plan.unseen:
                first_B, last_B = (live.column([getattr(span, name) for span in plan.unseen]) for name in _ENDS)
                is_unseen_BL |= (position_L >= first_B[:, None]) & (position_L < last_B[:, None])
            document_BL = -is_unseen_BL.long()
        if self.hides_later and not self._sees_all(question, keys):
            block_BL = (position_L // self.block_size)[None]
            return AttentionSpec("block_causal", document_BL=document_BL, packed=False, block_BL=block_BL)
        return None if document_BL is None else AttentionSpec(document_BL=document_BL, packed=False)

    def _sees_all(self, question: Question, keys: int) -> bool:
        """Whether nothing is fed but the last block of what is there."""
        last_block = (keys - 1) // self.block_size * self.block_size
        return all(spans[0].start >= last_block for spans in question.plan.spans)

    def _at(self, question: Question, columns: _Columns) -> Int[Tensor, " n"]:
        """Flat positions, among what is fed, of what is wanted."""
        plan, wanted_BW = question.plan, question.wanted_BW
        offsets = [first - spans[0].start for first, spans in zip(question.firsts, plan.spans, strict=True)]
        if wanted_BW.shape[1] == columns.width and not any(offsets):
            return wanted_BW.flatten().nonzero()[:, 0]
        row_n, place_n = wanted_BW.nonzero().unbind(1)
        if len(set(offsets)) == 1:
            return row_n * columns.width + place_n + offsets[0]
        return row_n * columns.width + place_n + question.live.column(offsets)[row_n]

    def _placed(self, question: Question, columns: _Columns, keys: int) -> Any:
        """The cache, told where the fed columns belong."""
        plan, live = question.plan, question.live
        rows, copies = len(live.rows), 2 if self.is_guided else 1
        if self._cache is None:
            new_cache = getattr(self.denoiser, "new_cache", None)
            if new_cache is None:
                raise ConfigError(
                    f'This model keeps no keys and values; "{self.options.cache}" needs them: cache none.'
                )
            self._cache, self._held = new_cache(rows * copies, live.tokens_BL.shape[1]), rows
        if self._held < rows:
            # what a new row finds there is overwritten before it is seen
            new = [0] * (rows - self._held)
            self._cache.keep(
                [copy * self._held + index for copy in range(copies) for index in (*range(self._held), *new)]
            )
            self._held = rows
        self._cache.widen(live.tokens_BL.shape[1])
        index = columns.index
        if index is not None and self.is_guided:
            index = index.repeat(2, 1)
        chosen = None
        if len(plan.rows) < rows:
            chosen = live.column([row + copy * rows for copy in range(copies) for row in plan.rows])
        where = columns.firsts[0] if index is None else index
        self._cache.place(where, keys, rows=chosen, scratch=int(self.hides_later))
        return self._cache

    def _with_shadows(
        self,
        question: Question,
        columns: _Columns,
        tokens_BL: Int[Tensor, "B L"],
        attention: AttentionSpec | None,
        at_n: Int[Tensor, " n"],
    ) -> tuple[Tensor, Tensor, AttentionSpec, Tensor]:
        """A masked twin of each position of the block, which sees everything but its original and is seen by none."""
        assert question.hidden_BW is not None
        live, (rows, width) = question.live, question.hidden_BW.shape
        length = tokens_BL.shape[1]
        shadow_BW = live.column(question.firsts)[:, None] + torch.arange(width, device=tokens_BL.device)
        real_BL = torch.arange(length, device=tokens_BL.device).expand(rows, length)
        positions_BL = torch.cat([real_BL, shadow_BW], 1)
        document_BL = attention.document_BL if attention is not None else torch.zeros_like(real_BL)
        assert document_BL is not None
        spec = AttentionSpec(
            "leave_one_out",
            document_BL=torch.cat([document_BL, torch.zeros_like(shadow_BW)], 1),
            packed=False,
            block_BL=positions_BL,
            stream_BL=torch.cat([torch.zeros_like(real_BL), torch.ones_like(shadow_BW)], 1),
        )
        row_n, place_n = question.hidden_BW.nonzero().unbind(1)
        at_n = at_n // length * (length + width) + at_n % length
        at_n = torch.cat([at_n, row_n * (length + width) + length + place_n])
        shadows_BW = torch.full_like(shadow_BW, self.mask_token_id)
        return torch.cat([tokens_BL, shadows_BW], 1), positions_BL, spec, at_n


_ENDS = ("start", "stop")


@dataclass(frozen=True)
class _Columns:
    """Columns fed: `width` from `firsts` on, or those of `index`, int64 `[B, width]`; `keys` are up to the last."""

    firsts: tuple[int, ...]
    width: int
    keys: int
    index: Int[Tensor, "B W"] | None = None


def _columns(plan: CachePlan, live: Canvas) -> _Columns:
    spans = plan.spans
    firsts = tuple(row[0].start for row in spans)
    keys = max(row[-1].stop for row in spans)
    width = max(sum(len(span) for span in row) for row in spans)
    if all(row == spans[0] for row in spans) and len(spans[0]) == 1:
        return _Columns(firsts, width, keys)
    lists = [[column for span in row for column in span] for row in spans]
    # a row of fewer columns is fed its last one several times, which changes nothing
    filled = [columns + columns[-1:] * (width - len(columns)) for columns in lists]
    return _Columns(firsts, width, keys, torch.tensor(filled, dtype=torch.int64, device=live.tokens_BL.device))
