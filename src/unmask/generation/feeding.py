"""One call of the denoiser, as a plan of the cache says: which columns are fed, who sees whom, where logits are wanted.

Knows no strategy and does not choose what is fed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from unmask.errors import ConfigError, ModelError
from unmask.generation.caching import CachePlan
from unmask.generation.calls import Call, copied, guided, shadowed
from unmask.generation.canvas import Canvas, on_host
from unmask.generation.guidance import hidden_BL, mix
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
        drafts: other states of the active blocks, looked at as well; logits are wanted at their masks.
        tails: for each row of the plan, which feeds all, further columns where logits are wanted; empty: none.
    """

    live: Canvas
    plan: CachePlan
    firsts: Sequence[int]
    wanted_BW: Bool[Tensor, "B W"]
    hidden_BW: Bool[Tensor, "B W"] | None = None
    drafts: Sequence[Canvas] = ()
    tails: Sequence[range] = ()


class Feeder:
    """Asks the denoiser, and keeps its cache.

    Attributes:
        computed: columns computed per row by the last call, guidance's second half included.
        moved: how far the values of unchanged tokens moved in the last call, a number per row; empty: not measured.
    """

    def __init__(
        self, denoiser: Denoiser, options: GenerationOptions, *, mask_token_id: int, block_size: int, hides_later: bool
    ) -> None:
        self.denoiser, self.options, self.mask_token_id = denoiser, options, mask_token_id
        self.block_size, self.hides_later = block_size, hides_later
        self.is_guided = options.guidance_scale > 0
        self.computed = 0
        # an exact cache is never far from what it holds, and does not ask
        self._watches = options.cache_drift is not None and not hides_later
        self.moved: list[float] = []
        self._seen_BL: Tensor | None = None
        self._cache: Any = None
        self._held = 0
        self._faster = getattr(denoiser, "packed", tuple)()  # in use while it is kept

    def unlearned(self) -> AbstractContextManager[None]:
        """Without gradients; where the network's own copies of its weights serve, each operation is sooner begun."""
        return torch.inference_mode() if self._faster else torch.no_grad()

    def can_branch(self, options: GenerationOptions) -> bool:
        """Whether several states of a block can be looked at in one forward."""
        return not self.hides_later or options.cache == "none" or bool(getattr(self.denoiser, "can_branch", False))

    def logits(self, question: Question) -> Float[Tensor, "n V"]:
        """Logits at the wanted positions, row by row; then, so too, at tails, hidden positions or those of drafts."""
        call = self._call(question)
        output = self.denoiser(
            call.tokens_BL,
            attention=call.attention,
            cache=call.cache,
            logits_at=call.at_n,
            **({} if call.positions_BL is None else {"positions": call.positions_BL}),
        )
        if output.logits is None:
            raise ModelError("The denoiser returned no logits at the positions asked for; generation needs them.")
        width = call.tokens_BL.shape[1] if call.cache is None else call.cache.computed
        self.computed = width * (len(call.tokens_BL) // len(question.plan.rows))
        self.moved = self._moved(call, question.plan)
        return mix(output.logits, self.options.guidance_scale) if self.is_guided else output.logits

    def _moved(self, call: Call, plan: CachePlan) -> list[float]:
        """What the cache measured, row by row; a forward of everything measures nothing that matters afterwards."""
        if call.cache is None or call.cache.moved_B is None or plan.kind == "refresh":
            return []
        return on_host(call.cache.moved_B[: len(plan.rows)])

    def _call(self, question: Question) -> Call:
        plan, live = question.plan, question.live
        if question.drafts and plan.stores:
            return self._branched(question)
        columns = _columns(plan, live)
        keys = max(columns.keys, live.length if plan.stores and not self.hides_later else 0)
        at_n = self._at(question, columns)
        if question.tails:
            tail = [row * columns.width + place for row, places in enumerate(question.tails) for place in places]
            at_n = torch.cat([at_n, live.column(tail)])
        tokens_BL = columns.of(live, plan.rows)
        cache = self._placed(question, columns, keys) if plan.stores else None
        positions_BL = None if plan.stores else columns.index
        call = Call(tokens_BL, self._attention(question, keys), at_n, cache, positions_BL)
        if plan.share is not None:
            is_asked_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)
            is_asked_BL.view(-1)[at_n] = True
            call.cache.asked_BL = is_asked_BL.repeat(2, 1) if self.is_guided else is_asked_BL
        if plan.stores and self._watches:
            call.cache.watched_BW = self._unchanged(question, columns, tokens_BL)
        if question.drafts:
            at = [self._at(replace(question, wanted_BW=draft.is_masked_BL), columns) for draft in question.drafts]
            call = copied(call, question.firsts, question.drafts, at)
        if question.hidden_BW is not None:
            call = shadowed(call, live.column(question.firsts), question.hidden_BW, self.mask_token_id)
        if self.is_guided:
            fed = columns.canvas(live, plan.rows)
            call = guided(call, hidden_BL(fed, tuple(self.options.guidance_keep)), self.mask_token_id)
        return call

    def _unchanged(self, question: Question, columns: _Columns, tokens_BL: Int[Tensor, "B L"]) -> Bool[Tensor, "b L"]:
        """Which of the tokens fed are as they were when they were fed last; they are remembered."""
        live = question.live
        (rows, length), seen_BL = live.tokens_BL.shape, self._seen_BL
        if seen_BL is None:
            seen_BL = live.tokens_BL.new_zeros(0, length)
        # -1 is no token: what was never fed is not as it was
        self._seen_BL = pad(seen_BL, (0, length - seen_BL.shape[1], 0, rows - len(seen_BL)), value=-1)
        column_BL = columns.index
        if column_BL is None:
            column_BL = torch.arange(columns.firsts[0], columns.firsts[0] + columns.width, device=tokens_BL.device)
        where = (live.column(question.plan.rows)[:, None], column_BL)
        is_same_BL = self._seen_BL[where] == tokens_BL
        self._seen_BL[where] = tokens_BL
        return is_same_BL.repeat(2, 1) if self.is_guided else is_same_BL

    def _branched(self, question: Question) -> Call:
        """The states of a block beside each other, behind what is stored; their keys and values go to spare columns."""
        plan, live, drafts = question.plan, question.live, question.drafts
        width, base = self.block_size, live.tokens_BL.shape[1]
        first_B1 = live.column(question.firsts)[:, None]
        place_W = torch.arange(width, device=first_B1.device)
        spare = base + torch.arange(len(drafts) * width, device=first_B1.device).expand(len(first_B1), -1)
        columns = _Columns((), width * (1 + len(drafts)), base, torch.cat([first_B1 + place_W, spare], 1))
        keys = base + len(drafts) * width
        key_L = torch.arange(keys, device=first_B1.device)
        offset_BL = torch.where(key_L < base, key_L - first_B1, (key_L - base) % width)
        branch_BL = torch.where(key_L < base, (offset_BL >= 0).long(), 2 + (key_L - base) // width)
        end_B1 = live.column([live.ends[row] for row in plan.rows])[:, None]
        is_unseen_BL = (first_B1 + offset_BL >= end_B1) | ((key_L < base) & (offset_BL >= width))
        spec = AttentionSpec("branches", document_BL=-is_unseen_BL.long(), packed=False, block_BL=branch_BL)
        states = [live.window(plan.rows, question.firsts, width), *drafts]
        at: list[Tensor] = []
        for number, state in enumerate(states):
            row_n, place_n = state.is_masked_BL.nonzero().unbind(1)
            at.append(row_n * columns.width + number * width + place_n)
        cache = self._placed(question, columns, keys)
        tokens_BL = torch.cat([state.tokens_BL for state in states], 1)
        call = Call(tokens_BL, spec, torch.cat(at), cache, (first_B1 + place_W).repeat(1, len(states)))
        if not self.is_guided:
            return call
        keep = tuple(self.options.guidance_keep)
        return guided(call, torch.cat([hidden_BL(state, keep) for state in states], 1), self.mask_token_id)

    def keep(self, rows: Sequence[int], of: int) -> None:
        """Forget all but these of `of` rows."""
        if not rows:
            self._cache, self._held, self._seen_BL = None, 0, None
        if self._cache is not None:
            self._cache.keep([*rows, *(of + row for row in rows)] if self.is_guided else rows)
            self._held = len(rows)
        if self._seen_BL is not None:
            self._seen_BL = self._seen_BL[list(rows)]

    def _attention(self, question: Question, keys: int) -> AttentionSpec | None:
        """Who sees whom among the first `keys` columns; None where all that is there may be seen."""
        plan, live = question.plan, question.live
        ends = [live.ends[row] for row in plan.rows]
        if not self.hides_later and not plan.unseen and min(ends) >= keys:
            return None
        position_L, document_BL = torch.arange(keys, device=live.tokens_BL.device), None
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
        self._cache.widen(max(live.tokens_BL.shape[1], keys))
        index = columns.index
        if index is not None and self.is_guided:
            index = index.repeat(2, 1)
        chosen = None
        if len(plan.rows) < rows:
            chosen = live.column([row + copy * rows for copy in range(copies) for row in plan.rows])
        where = columns.firsts[0] if index is None else index
        self._cache.place(where, keys, rows=chosen, scratch=int(self.hides_later and not question.drafts))
        self._cache.share = plan.share
        return self._cache


_ENDS = ("start", "stop")


@dataclass(frozen=True)
class _Columns:
    """Columns fed: `width` from `firsts` on, or those of `index`, int64 `[B, width]`; `keys` are up to the last."""

    firsts: tuple[int, ...]
    width: int
    keys: int
    index: Int[Tensor, "B W"] | None = None

    def of(self, live: Canvas, rows: Sequence[int]) -> Int[Tensor, "B W"]:
        """The tokens there."""
        if self.index is None:
            return live.tokens(rows, self.firsts, self.width)
        return live.gathered(rows, self.index).tokens_BL

    def canvas(self, live: Canvas, rows: Sequence[int]) -> Canvas:
        """All that is there."""
        if self.index is None:
            return live.window(rows, self.firsts, self.width)
        return live.gathered(rows, self.index)


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
