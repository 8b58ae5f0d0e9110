"""Any number of prompts, a batch at a time. Knows how to ask a `DiffusionLM`, and nothing of files."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.generation.options import GenerationOptions
    from unmask.lm.prompts import Prompt
    from unmask.lm.streaming import Generation

BATCH_SIZE = 16
# batches that are read ahead, so that rows of similar length come together
_AHEAD = 16


class Generates(Protocol):
    """What generates; `DiffusionLM` does."""

    def encode(self, prompt: Prompt) -> list[int]: ...
    def generate(self, prompts: list[Prompt], options: GenerationOptions, *, seeds: list[int]) -> list[Generation]: ...


def in_batches(
    lm: Generates,
    prompts: Iterable[Prompt],
    options: GenerationOptions,
    *,
    batch_size: int = BATCH_SIZE,
    seeds: Iterable[int] | None = None,
) -> Iterator[tuple[int, Generation]]:
    """See `DiffusionLM.generate_many`. Prompts of similar length are put into one batch.

    Raises:
        ConfigError: `batch_size` is below 1, or there are not as many seeds as prompts.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
    return _batches(lm, _seeded(prompts, options.seed, seeds), options, batch_size)


def _batches(
    lm: Generates, rows: Iterator[tuple[int, Prompt, int]], options: GenerationOptions, batch_size: int
) -> Iterator[tuple[int, Generation]]:
    while ahead := list(itertools.islice(rows, batch_size * _AHEAD)):
        ahead.sort(key=lambda row: len(lm.encode(row[1])))
        for start in range(0, len(ahead), batch_size):
            numbers, texts, row_seeds = zip(*ahead[start : start + batch_size], strict=True)
            results = lm.generate(list(texts), options, seeds=list(row_seeds))
            yield from zip(numbers, results, strict=True)


def _seeded(prompts: Iterable[Prompt], first: int, seeds: Iterable[int] | None) -> Iterator[tuple[int, Prompt, int]]:
    chosen = itertools.count(first) if seeds is None else iter(seeds)
    number = 0
    for number, prompt in enumerate(prompts, 1):
        seed = next(chosen, None)
        if seed is None:
            raise ConfigError(f"{number - 1} seeds for {number} or more prompts; give one seed per prompt.")
        yield number - 1, prompt, seed
    if seeds is not None and next(chosen, None) is not None:
        raise ConfigError(f"there are more seeds than the {number} prompts; give one seed per prompt.")
