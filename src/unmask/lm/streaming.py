"""A generation under way, and its results. Knows neither prompts nor options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from unmask.generation.loop import Decoding
from unmask.generation.trace import Commit, Completion, Stats, Trace
from unmask.lm.working import at_work
from unmask.models.shell import DiffusionModel


@dataclass(frozen=True)
class Generation:
    """One result.

    Attributes:
        text: the continuation; for infilling the whole text, blanks filled.
        token_ids, finish_reason, stats, trace: see `unmask.generation.trace.Completion`. A stop string ends a row as a
            stop token does; where it begins within a token, that token is the last.
        written: for infilling the text of each blank.
        fields: of a template: name of a blank -> its text without the space around it.
    """

    text: str
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    stats: Stats
    trace: Trace | None = None
    written: tuple[str, ...] = ()
    fields: dict[str, str] = field(default_factory=dict)


class Part(NamedTuple):
    """Rows that are decoded together, and their numbers in the request."""

    decoding: Decoding
    rows: tuple[int, ...]


class TextStream:
    """A generation under way: iterate for its `Commit`s, then ask for its `generations()`.

    Args:
        model: switched to evaluation while it runs.
        parts: decoded one after the other; each row is in one of them.
        finish: makes the result of a row, by its number.
    """

    def __init__(
        self, model: DiffusionModel, parts: Sequence[Part], finish: Callable[[int, Completion], Generation]
    ) -> None:
        self._model, self._parts, self._finish = model, parts, finish

    def __iter__(self) -> Iterator[Commit]:
        with at_work(self._model):
            begun = 0
            for part in self._parts:
                last = -1
                for commit in part.decoding:
                    last = commit.step
                    yield replace(commit, step=begun + commit.step)
                begun += last + 1

    def run(self) -> list[Generation]:
        """Go on to the end; one result per prompt."""
        with at_work(self._model):
            for part in self._parts:
                part.decoding.run()
        return self.generations()

    def canvas(self, row: int = 0) -> list[int | None]:
        """The ids of a row as it stands, its given text included; None where it is still masked."""
        part = next(part for part in self._parts if row in part.rows)
        canvas, index = part.decoding.canvas, part.rows.index(row)
        ids, masked = canvas.tokens_BL[index].tolist(), canvas.is_masked_BL[index].tolist()
        return [None if blank else token for token, blank in zip(ids, masked, strict=True)][: canvas.ends[index]]

    def generations(self) -> list[Generation]:
        """One result per prompt, as the canvas stands."""
        done = {
            row: self._finish(row, completion)
            for part in self._parts
            for row, completion in zip(part.rows, part.decoding.completions(), strict=True)
        }
        return [done[row] for row in sorted(done)]
