"""Continuous batching: as soon as a row is finished, the next prompt takes its place.

Results come as they are finished; a row's result is the same as alone. Knows token ids only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch

from unmask.generation.canvas import continuation
from unmask.generation.decoding import Decoding, Entry, Request
from unmask.generation.loop import check_rows
from unmask.generation.options import GenerationOptions
from unmask.generation.rows import Ends
from unmask.generation.trace import Completion
from unmask.types import Denoiser


def continuous(
    denoiser: Denoiser,
    prompts: Iterable[Sequence[int]],
    *,
    options: GenerationOptions,
    mask_token_id: int | None,
    stop_token_ids: Sequence[int] = (),
    seeds: Iterable[int] | None = None,
    ends: Iterable[Ends | None] | None = None,
    batch_size: int = 8,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, Completion]]:
    """Continue prompts, `batch_size` of them at a time; they are read only as places become free.

    Args:
        prompts: token ids; may be endless.
        seeds: one per prompt; None: `options.seed` + its number.
        ends: one per prompt; see `loop.stream`.
        others: see `loop.generate`.

    Yields:
        The number of a prompt and its completion, in the order in which they are finished.

    Raises:
        ConfigError, ModelError: as `loop.generate`, when the row in question is reached.
    """
    filler = 0 if mask_token_id is None else mask_token_id
    stops = tuple(stop_token_ids) if options.early_stop else ()
    request = Request(denoiser, options, mask_token_id, stops, batch_size=batch_size)
    decoding = Decoding(request, continuation([], 0, filler, device), [], writable=options.max_new_tokens)
    waiting = _entries(prompts, options, seeds, ends)
    while True:
        taken = list(islice(waiting, batch_size - decoding.under_way))
        if taken:
            rows = [prompt for prompt, _ in taken]
            check_rows(rows, vocab_size, "prompt", first=taken[0][1].number)
            decoding.add(continuation(rows, options.max_new_tokens, filler, device), [entry for _, entry in taken])
        if not decoding.under_way:
            return
        decoding.turn()
        yield from decoding.take_finished()


def _entries(
    prompts: Iterable[Sequence[int]],
    options: GenerationOptions,
    seeds: Iterable[int] | None,
    ends: Iterable[Ends | None] | None,
) -> Iterator[tuple[Sequence[int], Entry]]:
    given_seeds = None if seeds is None else iter(seeds)
    given_ends = None if ends is None else iter(ends)
    for number, prompt in enumerate(prompts):
        seed = options.seed + number if given_seeds is None else next(given_seeds)
        yield prompt, Entry(number, seed, None if given_ends is None else next(given_ends))
