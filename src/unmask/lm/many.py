"""Any number of prompts, some at a time. Knows neither models nor files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from unmask.errors import ConfigError
from unmask.generation.automaton import Automaton
from unmask.generation.checking import whole_number
from unmask.generation.rows import Ends, Waiting
from unmask.generation.trace import Completion
from unmask.lm.continuing import TextRow
from unmask.lm.prompts import Prompt
from unmask.lm.streaming import Generation

BATCH_SIZE = 16
# batches that are read ahead, so that rows of similar length come together
_AHEAD = 16


class Decode(Protocol):
    """As `unmask.generation.batching.continuous`, all else being given: index of a row, and its completion."""

    def __call__(self, rows: Iterable[Waiting], /) -> Iterator[tuple[int, Completion]]: ...


class Asked(NamedTuple):
    """A prompt among many: its number, its row, its seed."""

    number: int
    row: TextRow
    seed: int


def asked_rows(
    prompts: Iterable[Prompt],
    read: Callable[[int, Prompt], TextRow],
    first_seed: int,
    seeds: Iterable[int] | None,
    batch_size: int,
) -> Iterator[Asked]:
    """The rows of prompts, read ahead a little and put into order by their length there.

    Args:
        prompts: any number.
        read: makes the row of a prompt, given its number.
        first_seed: of the first prompt, one more for each further one, where `seeds` is None.
        seeds: one per prompt.
        batch_size: rows decoded together.

    Raises:
        ConfigError: `batch_size` is below 1, or there are not as many seeds as prompts.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
    rows = (Asked(number, read(number, prompt), seed) for number, prompt, seed in _seeded(prompts, first_seed, seeds))
    ahead = iter(lambda: list(itertools.islice(rows, batch_size * _AHEAD)), [])
    return (row for window in ahead for row in sorted(window, key=lambda asked: len(asked.row.ids)))


def finished_rows(
    rows: Iterable[Asked],
    decode: Decode,
    ends_of: Callable[[TextRow], Ends | None],
    finish: Callable[[TextRow, Completion], Generation],
    automaton: Automaton | None = None,
) -> Iterator[tuple[int, Generation]]:
    """Number and result of each row, as they are finished.

    Args:
        rows: read as places become free.
        decode: decodes them.
        ends_of: what ends a row beside stop tokens.
        finish: makes the result.
        automaton: the language of what is written; None: any text.
    """
    under_way: dict[int, Asked] = {}

    def waiting() -> Iterator[Waiting]:
        for asked in rows:
            under_way[asked.number] = asked
            yield Waiting(asked.row.ids, asked.seed, ends_of(asked.row), automaton, asked.number)

    for number, completion in decode(waiting()):
        yield number, finish(under_way.pop(number).row, completion)


def _seeded(prompts: Iterable[Prompt], first: int, seeds: Iterable[int] | None) -> Iterator[tuple[int, Prompt, int]]:
    chosen = itertools.count(first) if seeds is None else iter(seeds)
    number = 0
    for number, prompt in enumerate(prompts, 1):
        seed = next(chosen, None)
        if seed is None:
            raise ConfigError(f"{number - 1} seeds for {number} or more prompts; give one seed per prompt.")
        yield number - 1, prompt, whole_number("a seed", seed)
    if seeds is not None and next(chosen, None) is not None:
        raise ConfigError(f"there are more seeds than the {number} prompts; give one seed per prompt.")
