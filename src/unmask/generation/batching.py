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
from unmask.generation.rows import Waiting
from unmask.generation.trace import Completion
from unmask.types import Denoiser


def continuous(
    denoiser: Denoiser,
    rows: Iterable[Waiting],
    *,
    options: GenerationOptions,
    mask_token_id: int | None,
    stop_token_ids: Sequence[int] = (),
    batch_size: int = 8,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, Completion]]:
    """Continue prompts, `batch_size` of them at a time; they are read only as places become free.

    Args:
        rows: any number of them, even without end; their numbers, where they have some, all differ.
        others: see `loop.generate`.

    Yields:
        The number of a prompt, its own or its place from 0 on, and its completion, as they are finished.

    Raises:
        ConfigError, ModelError: as `loop.generate`, when the row in question is reached.
    """
    filler = 0 if mask_token_id is None else mask_token_id
    request = Request(denoiser, options, mask_token_id, tuple(stop_token_ids), batch_size=batch_size)
    decoding = Decoding(request, continuation([], 0, filler, device), [], writable=options.max_new_tokens)
    waiting = enumerate(rows)
    while True:
        taken = list(islice(waiting, batch_size - decoding.under_way))
        if taken:
            ids = [row.token_ids for _, row in taken]
            numbers = [place if row.number is None else row.number for place, row in taken]
            check_rows(ids, vocab_size, "prompt", numbers)
            pairs = zip(numbers, taken, strict=True)
            entries = [Entry(number, row.seed, row.ends, row.automaton) for number, (_, row) in pairs]
            decoding.add(continuation(ids, options.first_length, filler, device), entries)
        if not decoding.under_way:
            return
        decoding.turn()
        yield from decoding.take_finished()
