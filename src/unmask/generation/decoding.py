"""The one denoising loop: feed the canvas, propose, let the strategy choose, commit.

It knows token ids only: no tokenizer, no model class, no algorithm of choosing, no cache. Each row works on a block of
its own, takes part in a forward only while it has something to write, and leaves the batch when it is finished.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.errors import ConfigError, ModelError
from unmask.generation.automaton import Automaton
from unmask.generation.caching import CachePlan, CachePolicy
from unmask.generation.canvas import Canvas, joined, on_host
from unmask.generation.choosing import Chooser
from unmask.generation.feeding import Feeder, Question
from unmask.generation.lengthening import Lengthening, grown, lengthening_for
from unmask.generation.options import GenerationOptions
from unmask.generation.rows import Ends, Row
from unmask.generation.speculation import speculation_for
from unmask.generation.stopping import cut, finished_B
from unmask.generation.trace import Commit, Completion, Stats, Trace
from unmask.generation.written import Written, commits_of
from unmask.registry import CACHES
from unmask.types import Denoiser


@dataclass(frozen=True)
class Request:
    """What one run of the loop is asked for, besides the canvas.

    Attributes:
        denoiser: predicts the clean token at masked positions.
        options: see there.
        mask_token_id: the mask token; never proposed. None: the model has none and needs none, as it writes from left
            to right.
        stop_token_ids: a row ends at the first of these that it writes; without `options.early_stop` at its own end.
        whole_rows: completions are whole rows (infilling), not only what follows the prompt.
        batch_size: rows under way at a time, at most.
    """

    denoiser: Denoiser
    options: GenerationOptions
    mask_token_id: int | None
    stop_token_ids: tuple[int, ...]
    whole_rows: bool = False
    batch_size: int = 0


class Entry(NamedTuple):
    """A row that asks to be written: number, seed, what ends it beside stop tokens, and its language."""

    number: int
    seed: int
    ends: Ends | None = None
    automaton: Automaton | None = None


class Decoding:
    """A run of the loop. Iterate for its commits, then ask for its completions; `run` does both.

    With a canvas of no rows it waits for `add`, of which `batching` makes use.
    """

    def __init__(self, request: Request, canvas: Canvas, entries: Sequence[Entry], *, writable: int = 0) -> None:
        options, writable = request.options, max(canvas.writable, writable, 1)
        self.request, self.options = request, options
        self._filler = request.mask_token_id if request.mask_token_id is not None else 0
        self._block_size = options.block_size or writable
        self._hides_later = options.attention == "block_causal" and options.block_size is not None
        self._ends_at = request.stop_token_ids if options.early_stop else ()
        self._chooser = Chooser(
            options,
            mask_token_id=request.mask_token_id,
            stop_token_ids=request.stop_token_ids,
            # Of the longest row, as in dLLM: where rows to fill in differ in length, steps depend on the batch.
            steps=options.steps_per_block or math.ceil(options.steps / math.ceil(writable / self._block_size)),
            block_size=self._block_size,
            counts_given=self._hides_later and not request.whole_rows,
            rows=max(len(entries), request.batch_size),
            judge=getattr(request.denoiser, "judge", _nobody)(),
        )
        self._policy = self._policy_for(options)
        self._feeder = Feeder(
            request.denoiser,
            options,
            mask_token_id=self._filler,
            block_size=self._block_size,
            hides_later=self._hides_later,
        )
        self._lengthening = None
        if not request.whole_rows:
            never, hides_later = self._chooser.never, self._hides_later
            self._lengthening = lengthening_for(options, self._ends_at, never, hides_later=hides_later)
        self._speculation = speculation_for(self._chooser, self._feeder, self._filler, options)
        self._number = 0
        self._rows: list[Row] = []
        self._left: list[tuple[Row, Canvas]] = []
        self._live = canvas.take([])
        self.add(canvas, entries)
        self._written = self._run()

    def __iter__(self) -> Iterator[Commit]:
        """The commits as they happen, rows in order within a step."""
        for written in self._written:
            yield from self._commits(written)

    def run(self) -> list[Completion]:
        """Decode to the end; one completion per row."""
        for written in self._written:
            self._commits(written, only_kept=True)
        return self.completions()

    def completions(self) -> list[Completion]:
        """One completion per row, in their order, as they stand; what is not yet written holds the mask token."""
        here = [(row, self._live.take([index])) for index, row in enumerate(self._rows)]
        pairs = sorted([*self._left, *here], key=lambda pair: pair[0].number)
        return [self._completion(row, canvas) for row, canvas in pairs]

    @property
    def canvas(self) -> Canvas:
        """All rows as they stand now."""
        whole = joined([*(canvas for _, canvas in self._left), self._live], self._filler)
        return whole.cut()

    @property
    def under_way(self) -> int:
        """How many rows are being written."""
        return len(self._rows)

    def add(self, canvas: Canvas, entries: Sequence[Entry]) -> None:
        """Take rows in; the canvas numbers them in the order of `entries`."""
        texts, masked_BL = canvas.starts, on_host(canvas.is_masked_BL)
        canvas = canvas.on_grid(self._block_size) if self._hides_later else canvas
        free = sorted(set(range(len(self._rows) + len(entries))) - {row.slot for row in self._rows})
        for index, entry in enumerate(entries):
            masked = tuple(place for place, is_masked in enumerate(masked_BL[index]) if is_masked)
            start = canvas.starts[index]
            row = Row(
                number=entry.number,
                slot=free[index],
                seed=entry.seed,
                text=texts[index],
                start=start,
                end=canvas.ends[index],
                blocks=sorted({(place - start) // self._block_size for place in masked}),
                ends=entry.ends,
                masked=masked,
                automaton=entry.automaton,
            )
            self._chooser.begin(row, is_whole=self.request.whole_rows)
            if self.options.trace:
                row.token_ids = tuple(on_host(canvas.tokens_BL[index, : row.end]))
            here = replace(canvas.take([index]), rows=(row.slot,))
            if row.blocks:
                self._rows.append(row)
                self._live = joined([self._live, here], self._filler, ordered=False)
            else:
                self._left.append((row, here))
        self._live = self._live.widened(self._live.length + self._block_size, self._filler)

    def turn(self) -> None:
        """Every row under way makes one step."""
        for written in self._round():
            self._commits(written, only_kept=True)

    def take_finished(self) -> list[tuple[int, Completion]]:
        """The rows that were finished since the last call, with their numbers."""
        left, self._left = self._left, []
        return [(row.number, self._completion(row, canvas)) for row, canvas in left]

    def _policy_for(self, options: GenerationOptions) -> CachePolicy:
        name = options.cache
        if name == "auto":
            name = "block" if self._hides_later and hasattr(self.request.denoiser, "new_cache") else "none"
        policy: CachePolicy = CACHES.get(name)(options)
        if policy.block_causal is True and not self._hides_later:
            raise ConfigError(
                f'cache "{name}" is for blocks that see nothing behind them; this model, or attention '
                f'"{options.attention}", lets them see all. Use another cache, or a model made for it.'
            )
        if policy.block_causal is False and self._hides_later:
            raise ConfigError(
                f'cache "{name}" is for attention in which everybody sees everybody; here blocks see nothing behind '
                'them. Use cache "block", which is exact, or none.'
            )
        if self._chooser.verifies and (name != "none" or self._hides_later):
            raise ConfigError(
                f'Strategy "{options.strategy}" hides tokens one by one to see whether they hold, which needs all of a '
                "row at once: use it with cache none and bidirectional attention."
            )
        return policy

    def _run(self) -> Iterator[Written | Commit]:
        while self._rows:
            yield from self._round()

    def _round(self) -> Iterator[Written | Commit]:
        places = [row.place(self._block_size) for row in self._rows]
        over: set[int] = set()
        for plan in self._policy.plan(places, self._hides_later):
            yield from self._step(plan, over)
        if over:
            self._leave(over)

    def _step(self, plan: CachePlan, over: set[int]) -> Iterator[Written | Commit]:
        """One forward and what is written because of it; rows that are finished go to `over`."""
        rows = [self._rows[index] for index in plan.rows]
        firsts = tuple(row.start + row.block * self._block_size for row in rows)
        window = self._live.window(plan.rows, firsts, self._block_size)
        if plan.kind == "commit":
            self._ask(Question(self._live, plan, firsts, torch.zeros_like(window.is_masked_BL)), rows)
            return
        guesses = self._speculation.guesses(rows, firsts, window) if self._speculation is not None else []
        tails = self._lengthening.tails(rows) if self._lengthening is not None else ()
        question = Question(self._live, plan, firsts, *self._chooser.asked(window), drafts=guesses, tails=tails)
        logits_nV = self._ask(question, rows)
        if self._lengthening is not None:
            yield from self._grow(self._lengthening, question, window, logits_nV, over)
            return
        if self._speculation is None:
            yield self._write(plan.rows, rows, firsts, window, logits_nV, over)
            return
        for index, states in self._speculation.states(rows, window, guesses, logits_nV):
            row, after = rows[index], window.take([index])
            for state, found in states:
                if state is not after and not torch.equal(state.tokens_BL, after.tokens_BL):
                    break
                self._speculation.remember(row, state, found)
                written = self._write((plan.rows[index],), [row], (firsts[index],), after, found, over)
                yield written
                if row.within == 0 or plan.rows[index] in over:
                    break
                after = written.window

    def _grow(
        self, how: Lengthening, question: Question, window: Canvas, logits_nV: Float[Tensor, "n V"], over: set[int]
    ) -> Iterator[Written | Commit]:
        """A step in which rows may grow; in one whose length is not found yet, nothing is written."""
        places, ready = question.plan.rows, list[int]()
        rows = [self._rows[place] for place in places]
        counts: list[int] = on_host(question.wanted_BW.sum(1))
        asked, tails = sum(counts), sum(len(tail) for tail in question.tails)
        parts, hidden_mV = torch.split(logits_nV[:asked], counts), logits_nV[asked + tails :]
        sure = how.certainties(rows, places, self._live, logits_nV[asked : asked + tails])
        for index, row in enumerate(rows):
            if how.is_short(row, sure[index]):
                yield self._insert(places[index], row.end, min(self.options.lengthen_by, how.room(row)))
            else:
                row.is_measured = True
                ready.append(index)
        if not ready:
            return
        these, firsts = [rows[index] for index in ready], tuple(question.firsts[index] for index in ready)
        shown_nV = torch.cat([*(parts[index] for index in ready), hidden_mV])
        written = self._write([places[index] for index in ready], these, firsts, window.take(ready), shown_nV, over)
        yield written
        for index, column in zip(ready, how.inserts(these, [sure[index] for index in ready], written), strict=True):
            if column is not None and places[index] not in over:
                yield self._insert(places[index], column, min(self.options.lengthen_by - 1, how.room(rows[index])))

    def _insert(self, place: int, column: int, count: int) -> Commit:
        """Put masks before a column of a row."""
        row, before = self._rows[place], self._live
        self._live = before.lengthened(place, column, count, self._filler, self._block_size)
        commit = grown(row, self._number, before, self._live, place, column, count)
        masked = on_host(self._live.is_masked_BL[place])
        row.grow(count, [column for column, is_masked in enumerate(masked) if is_masked], self._block_size)
        return commit

    def _ask(self, question: Question, rows: Sequence[Row]) -> Float[Tensor, "n V"]:
        """Logits where they are wanted, the forward counted."""
        with self._feeder.unlearned():
            plan, logits_nV = question.plan, self._feeder.logits(question)
        check_options(logits_nV.shape[1], self.options)
        for index, row in enumerate(rows):
            row.count(plan.kind, self._feeder.computed)
            row.since = 1 if plan.kind == "refresh" else None if row.since is None else row.since + 1
            row.drift = (row.drift or 0.0) + self._feeder.moved[index] if self._feeder.moved else None
            if plan.settled:
                row.stored = plan.settled[index]
        return logits_nV

    def _write(
        self,
        places: Sequence[int],
        rows: Sequence[Row],
        firsts: tuple[int, ...],
        window: Canvas,
        logits_nV: Float[Tensor, "n V"],
        over: set[int],
    ) -> Written:
        """What the strategy chooses, written into the rows at `places`."""
        with self._feeder.unlearned():
            step, proposal, transfer = self._chooser.choose(rows, firsts, window, logits_nV, self._number)
            after = window.apply(transfer.write_BL, proposal.predicted_BL, transfer.remask_BL, self._filler)
            self._live.write(places, firsts, after)
            self._number += 1
            written = Written(tuple(row.number for row in rows), firsts, after, step, proposal, transfer)
            self._advance(places, rows, written, over)
        return written

    def _advance(self, places: Sequence[int], rows: Sequence[Row], written: Written, over: set[int]) -> None:
        """Let each row go on to its next step, its next block or its end. The one wait for the device in a step."""
        after, stay_B = written.window, written.transfer.stay_B
        is_open_B = after.is_masked_BL.any(1) if stay_B is None else after.is_masked_BL.any(1) | stay_B
        is_broken_B = written.proposal.log_prob_BL.isnan().any(1)
        # a stop token may have moved out of its block
        told = after if self._lengthening is None else self._live.take(places)
        is_over_B = finished_B(told, self._ends_at)
        state = on_host(torch.stack([is_open_B, is_broken_B, is_over_B]))
        for index, row, is_open, is_broken, is_over in zip(places, rows, *state, strict=True):
            if is_broken:
                raise ModelError(
                    f"The model's logits are not finite in block {row.block}: its weights are damaged, or overflow in "
                    'this dtype. Check the checkpoint, or load it with dtype "float32".'
                )
            if is_open and row.within + 1 >= self._most_steps:
                raise ConfigError(
                    f'Strategy "{self.options.strategy}" left masks in block {row.block} after {row.within + 1} steps; '
                    "a strategy commits at least one token per row and step."
                )
            if is_over or not row.step(is_open) or (row.ends is not None and row.ends(self._prefix(index, row))):
                over.add(index)

    @property
    def _most_steps(self) -> int:
        # strategies that take tokens back need more steps than there are tokens, and end by their own count
        takes_back = self._chooser.reads_filled or self._chooser.verifies
        most = 8 * self._block_size + 64 + self.options.max_post_steps
        return most if takes_back else self._block_size + 1

    def _prefix(self, index: int, row: Row) -> list[int]:
        """The tokens written before the first mask."""
        tokens = on_host(self._live.tokens_BL[index, row.text : row.end])
        masked = on_host(self._live.is_masked_BL[index, row.text : row.end])
        return tokens[: masked.index(True)] if True in masked else tokens

    def _leave(self, over: set[int]) -> None:
        """Take finished rows out of the batch."""
        self._left += [(self._rows[index], self._live.take([index])) for index in sorted(over)]
        stay = [index for index in range(len(self._rows)) if index not in over]
        self._feeder.keep(stay, of=len(self._rows))
        self._live = self._live.take(stay).cut(self._block_size)
        self._rows = [self._rows[index] for index in stay]

    def _commits(self, written: Written | Commit, *, only_kept: bool = False) -> list[Commit]:
        """One `Commit` per row that the step changed, kept with the row for its trace."""
        if only_kept and not self.options.trace:
            return []
        commits = [written] if isinstance(written, Commit) else commits_of(written)
        if self.options.trace:
            rows = {row.number: row for row in (*self._rows, *(row for row, _ in self._left))}
            for commit in commits:
                rows[commit.row].commits.append(commit)
        return commits

    def _completion(self, row: Row, canvas: Canvas) -> Completion:
        token_ids = on_host(canvas.tokens_BL[0])
        start = 0 if self.request.whole_rows else row.text
        emitted, is_stopped = cut(token_ids[start : row.end], self._ends_at)
        count = len(row.masked) if self.request.whole_rows else len(emitted)
        stats = Stats(count, row.totals(), row.positions)
        trace = None
        if self.options.trace:
            # a row that grew is told from the start in the length that it has in the end
            more = range(len(row.token_ids), row.end)
            begun = (*row.token_ids, *(self._filler for _ in more))
            trace = Trace(begun, (*row.masked, *more), tuple(row.commits))
        return Completion(emitted, "stop" if is_stopped else "length", stats, trace)


def _nobody() -> None:
    """Denoisers need not judge."""


def check_options(vocab_size: int, options: GenerationOptions) -> None:
    """Refuse suppressed ids that the model has no logit for, and suppressing all of them."""
    suppressed = {*options.suppress_tokens, *options.begin_suppress_tokens}
    worst = max(suppressed, default=0)
    if worst >= vocab_size:
        raise ConfigError(f"suppressed token id {worst} is unknown; the model knows ids 0 to {vocab_size - 1}.")
    if len(suppressed) >= vocab_size - 1:
        raise ConfigError(f"{len(suppressed)} of {vocab_size} token ids are suppressed; nothing is left to write.")
