"""Texts and ids with blanks -> rows to be filled, lengths for the blanks that leave theirs open, and results.

Knows a tokenizer and no model; `filling` fills the rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from transformers import PreTrainedTokenizerBase

from unmask.data.blanks import BLANK, Blank, Blanked, blanked_ids, filled_text, read_blanks
from unmask.data.chat import check_unicode
from unmask.errors import ConfigError
from unmask.generation.trace import Completion, Forwards, Stats
from unmask.lm.prompts import decode, decode_run, encode
from unmask.lm.streaming import Generation

Lengths = tuple[int, ...]
# fillings of one text that are tried together; with more, one blank after the other is tried
TOGETHER = 64
_ROUNDS = 3


@dataclass(frozen=True)
class BlankRow:
    """A row of ids with masks.

    Attributes:
        ids: the row. editable: where the masks are that stand for blanks.
        blanks: positions of each blank, from the first up to but without the last.
        pieces: the text around the masks; empty where ids were given.
        names: of the blanks.
    """

    ids: list[int]
    editable: list[bool]
    blanks: tuple[tuple[int, int], ...]
    pieces: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def read_text(text: str, tokenizer: PreTrainedTokenizerBase, *, fields: bool = False) -> Blanked:
    """The blanks of a text, of a template with `fields`; see `unmask.data.blanks.read_blanks`.

    Raises:
        DataError: the text is no Unicode.
        ConfigError: it is no text, or a blank cannot be read.
    """
    _check_text(text)
    return read_blanks(text, str(tokenizer.mask_token), fields=fields)


def between(prefix: str, suffix: str, tokens: int | tuple[int, int]) -> Blanked:
    """A text with one blank in its middle; nothing in `prefix` and `suffix` is one.

    Raises:
        DataError: a text is no Unicode.
        ConfigError: a text is none, or the blank has no length that can be written.
    """
    _check_text(prefix)
    _check_text(suffix)
    return Blanked((prefix, suffix), (Blank(*_span(tokens), "middle"),))


def _check_text(text: Any) -> None:
    if not isinstance(text, str):
        raise ConfigError(f"a text to fill in is a {type(text).__name__}; give it as a string.")
    check_unicode(text)


def _span(tokens: Any) -> tuple[int, int]:
    span = tuple(tokens) if isinstance(tokens, tuple | list) else (tokens, tokens)
    if len(span) != 2 or not all(isinstance(count, Integral) and not isinstance(count, bool) for count in span):
        raise ConfigError(f"tokens is {tokens!r}; it must be a whole number such as 8, or two such as (1, 16).")
    return int(span[0]), int(span[1])


def text_row(blanked: Blanked, lengths: Lengths, tokenizer: PreTrainedTokenizerBase) -> BlankRow:
    """The row of a text whose blanks have these lengths.

    Raises:
        ConfigError: the text holds the mask token beside its blanks.
    """
    ids, pieces = blanked_ids(blanked, lengths, tokenizer)
    editable = [token == tokenizer.mask_token_id for token in ids]
    places = [place for place, is_blank in enumerate(editable) if is_blank]
    if len(places) != sum(lengths):
        raise ConfigError(f"the text holds the mask token {tokenizer.mask_token}, which stands for a blank. Remove it.")
    ends = list(itertools.accumulate(lengths))
    firsts = [end - length for end, length in zip(ends, lengths, strict=True)]
    blanks = tuple((places[first], places[end - 1] + 1) for first, end in zip(firsts, ends, strict=True))
    return BlankRow(ids, editable, blanks, pieces, tuple(blank.name for blank in blanked.blanks))


def ids_row(prompt: Any, tokenizer: PreTrainedTokenizerBase) -> BlankRow:
    """The row of ids in which the mask token's id stands for a blank; masks side by side are one.

    Raises:
        ConfigError: they are no ids.
    """
    ids = encode(prompt, tokenizer)
    editable = [token == tokenizer.mask_token_id for token in ids]
    runs = [list(run) for is_blank, run in itertools.groupby(range(len(ids)), editable.__getitem__) if is_blank]
    return BlankRow(ids, editable, tuple((run[0], run[-1] + 1) for run in runs), names=("",) * len(runs))


def check_blanks(rows: Sequence[Blanked | BlankRow]) -> None:
    """Refuse texts without a blank.

    Raises:
        ConfigError: there is one.
    """
    for number, row in enumerate(rows):
        if not row.blanks and isinstance(row, Blanked) and row.is_template:
            raise ConfigError(
                f"text {number} has no blank to fill in; write {{a:4}} for a field a of four tokens, or {{a:1-8}} "
                "for one to eight."
            )
        if not row.blanks:
            raise ConfigError(f"text {number} has no blank to fill in; write {BLANK} for each token that is missing.")


def choose_lengths(
    blanks: Sequence[Blank],
    score: Callable[[Sequence[Lengths]], Sequence[float]],
    runs: Sequence[Sequence[Lengths]] | None = None,
) -> Lengths:
    """The lengths with the highest score, the shorter ones where scores are equal.

    All combinations are compared where there are at most `TOGETHER`. With more, one blank after the other, or one run
    of them, is given its best length while the others keep theirs, from the shortest on, until nothing changes or for
    three rounds.

    Args:
        blanks: with the lengths they may have.
        score: of some combinations of lengths, one length per blank.
        runs: for each run of blanks the lengths that its blanks may have together, see `lengths_of_runs`; None: each
            blank is a run and may have all its lengths.
    """
    choices = [range(blank.least, blank.most + 1) for blank in blanks]
    if math.prod(map(len, choices)) <= TOGETHER:
        return _best(sorted(itertools.product(*choices), key=lambda lengths: (sum(lengths), lengths)), score)
    parts: Sequence[Sequence[Lengths]] = runs or [[(length,) for length in lengths] for lengths in choices]
    chosen = [part[0] for part in parts]
    for _ in range(_ROUNDS):
        before = list(chosen)
        for place, part in enumerate(parts):
            if len(part) > 1:
                tried = [_joined([*chosen[:place], lengths, *chosen[place + 1 :]]) for lengths in part]
                chosen[place] = part[tried.index(_best(tried, score))]
        if chosen == before:
            break
    return _joined(chosen)


def lengths_of_runs(blanks: Sequence[Blank], row: BlankRow, is_possible: Callable[[int], bool]) -> list[list[Lengths]]:
    """For each run of blanks that touch, the lengths of its blanks that are possible, the shortest first.

    How a run is shared out among its blanks changes no row: of the ways to do so, the one with short blanks first is
    taken. A run that has no possible length keeps its shortest.

    Args:
        blanks: with the lengths they may have.
        row: of the text, the blanks having some length.
        is_possible: whether a run may have so many tokens.
    """
    runs: list[list[Blank]] = []
    ends = [-1, *(end for _, end in row.blanks)]
    for blank, (first, _), end in zip(blanks, row.blanks, ends, strict=False):
        if first == end:
            runs[-1].append(blank)
        else:
            runs.append([blank])
    found: list[list[Lengths]] = []
    for run in runs:
        least, most = sum(blank.least for blank in run), sum(blank.most for blank in run)
        possible = [_shared_out(run, total) for total in range(least, most + 1) if is_possible(total)]
        found.append(possible or [_shared_out(run, least)])
    return found


def _shared_out(run: Sequence[Blank], total: int) -> Lengths:
    """Lengths of this sum, the first ones as short as can be."""
    rest, lengths = total - sum(blank.least for blank in run), list[int]()
    for blank in reversed(run):
        more = min(rest, blank.most - blank.least)
        lengths.append(blank.least + more)
        rest -= more
    return tuple(reversed(lengths))


def _joined(parts: Sequence[Lengths]) -> Lengths:
    return tuple(itertools.chain.from_iterable(parts))


def _best(candidates: Sequence[Lengths], score: Callable[[Sequence[Lengths]], Sequence[float]]) -> Lengths:
    scores = score(candidates)
    return candidates[max(range(len(candidates)), key=lambda index: (scores[index], -index))]


def mean_log_prob(done: Completion) -> float:
    """Mean log-probability, in nats per token, of what was written, each token's at the moment it was written.

    With one token per step and without guidance this is log p(filling | text around it) over the number of tokens,
    by the chain rule in the order of writing; the completion needs a trace.
    """
    if done.trace is None:
        raise ConfigError("a completion without a trace has no probabilities. Generate it with trace=True.")
    last = {
        place: confidence
        for commit in done.trace.commits
        for place, confidence in zip(commit.positions, commit.confidences, strict=True)
    }
    return sum(math.log(max(confidence, 1e-30)) for confidence in last.values()) / max(len(last), 1)


def with_cost(done: Generation, cost: Stats) -> Generation:
    """The result, the price of finding its lengths added."""
    own, spent = done.stats.forwards, cost.forwards
    forwards = Forwards(own.denoise + spent.denoise, own.commit + spent.commit, own.refresh + spent.refresh)
    return replace(done, stats=Stats(done.stats.emitted, forwards, done.stats.positions + cost.positions))


def filled(row: BlankRow, done: Completion, tokenizer: PreTrainedTokenizerBase) -> Generation:
    """The whole text with its blanks filled, and what was written into each."""

    def run(first: int, last: int) -> str:
        return decode_run(done.token_ids, first, last, tokenizer)

    places = [place for place, is_blank in enumerate(row.editable) if is_blank]
    text = filled_text(row.pieces, places, run) if row.pieces else decode(done.token_ids, tokenizer)
    written = tuple(run(first, last) for first, last in row.blanks)
    fields = {name: value.strip() for name, value in zip(row.names, written, strict=True) if name}
    return Generation(text, done.token_ids, done.finish_reason, done.stats, done.trace, written, fields)
