"""Ways to drain the denoising loop: continue prompts or fill in rows, at once or commit by commit.

The loop itself is in `decoding.py`. Token ids in, token ids out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unmask.errors import ConfigError
from unmask.generation.canvas import blanks, continuation
from unmask.generation.checking import whole_number
from unmask.generation.decoding import Decoding, Entry, Request
from unmask.generation.options import GenerationOptions
from unmask.generation.rows import Gaps, Waiting
from unmask.generation.trace import Completion
from unmask.types import Denoiser


def stream(
    denoiser: Denoiser,
    prompts: Sequence[Sequence[int]],
    *,
    options: GenerationOptions,
    mask_token_id: int | None,
    stop_token_ids: Sequence[int] = (),
    seeds: Sequence[int] | None = None,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> Decoding:
    """Continue each prompt, commit by commit: iterate over what this returns, then ask for its `completions()`.

    Arguments, results and errors are those of `generate`.
    """
    chosen = row_seeds(options, seeds, len(prompts))
    return stream_rows(
        denoiser,
        [Waiting(prompt, seed) for prompt, seed in zip(prompts, chosen, strict=True)],
        options=options,
        mask_token_id=mask_token_id,
        stop_token_ids=stop_token_ids,
        vocab_size=vocab_size,
        device=device,
    )


def stream_rows(
    denoiser: Denoiser,
    rows: Sequence[Waiting],
    *,
    options: GenerationOptions,
    mask_token_id: int | None,
    stop_token_ids: Sequence[int] = (),
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> Decoding:
    """As `stream`, for rows that bring their seed and their own end."""
    ids = [row.token_ids for row in rows]
    numbers = [place if row.number is None else row.number for place, row in enumerate(rows)]
    check_rows(ids, vocab_size, "prompt", numbers)
    canvas = continuation(ids, options.first_length, 0 if mask_token_id is None else mask_token_id, device)
    entries = [Entry(number, row.seed, row.ends, row.automaton) for number, row in zip(numbers, rows, strict=True)]
    request = Request(denoiser, options, mask_token_id, tuple(stop_token_ids))
    return Decoding(request, canvas, entries, writable=options.max_new_tokens)


def generate(
    denoiser: Denoiser,
    prompts: Sequence[Sequence[int]],
    *,
    options: GenerationOptions,
    mask_token_id: int | None,
    stop_token_ids: Sequence[int] = (),
    seeds: Sequence[int] | None = None,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> list[Completion]:
    """Continue each prompt.

    Args:
        denoiser: the network; see `unmask.types.Denoiser`.
        prompts: token ids; any id, the mask's included, is text like any other. An empty prompt is allowed.
        options: see `GenerationOptions`.
        mask_token_id: the mask token; None: a model that writes from left to right and has none.
        stop_token_ids: ids that end a row, unless `options.early_stop` is off.
        seeds: one per row; None: `options.seed` + row.
        vocab_size: where known, the prompts' ids are checked against it before anything runs.
        device: where the denoiser computes.

    Returns:
        One completion per prompt; each is a function of its prompt, its seed and the options only.

    Raises:
        ConfigError: a wrong id or number of seeds.
        ModelError: the denoiser's logits are not numbers.
    """
    return stream(
        denoiser,
        prompts,
        options=options,
        mask_token_id=mask_token_id,
        stop_token_ids=stop_token_ids,
        seeds=seeds,
        vocab_size=vocab_size,
        device=device,
    ).run()


def stream_infill(
    denoiser: Denoiser,
    rows: Sequence[Sequence[int]],
    editable: Sequence[Sequence[bool]] | None = None,
    *,
    options: GenerationOptions,
    mask_token_id: int,
    seeds: Sequence[int] | None = None,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> Decoding:
    """Fill in, commit by commit: iterate over what this returns, then ask for its `completions()`.

    Arguments, results and errors are those of `infill`.
    """
    blank = editable if editable is not None else [[token == mask_token_id for token in row] for row in rows]
    chosen = row_seeds(options, seeds, len(rows))
    if len(blank) != len(rows):
        raise ConfigError(f"editable is given for {len(blank)} of {len(rows)} rows; give one list for each.")
    return stream_gaps(
        denoiser,
        [Gaps(row, here, seed) for row, here, seed in zip(rows, blank, chosen, strict=True)],
        options=options,
        mask_token_id=mask_token_id,
        vocab_size=vocab_size,
        device=device,
    )


def stream_gaps(
    denoiser: Denoiser,
    rows: Sequence[Gaps],
    *,
    options: GenerationOptions,
    mask_token_id: int,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> Decoding:
    """As `stream_infill`, for rows that bring their seed and their language."""
    ids, blank = [row.token_ids for row in rows], [row.editable for row in rows]
    check_rows(ids, vocab_size, "row", range(len(rows)))
    if [len(row) for row in ids] != [len(row) for row in blank]:
        raise ConfigError("editable must have one boolean for each token of each row.")
    canvas = blanks(ids, blank, mask_token_id, device)
    request = Request(denoiser, options, mask_token_id, (), whole_rows=True)
    entries = [Entry(number, row.seed, automaton=row.automaton) for number, row in enumerate(rows)]
    return Decoding(request, canvas, entries)


def infill(
    denoiser: Denoiser,
    rows: Sequence[Sequence[int]],
    editable: Sequence[Sequence[bool]] | None = None,
    *,
    options: GenerationOptions,
    mask_token_id: int,
    seeds: Sequence[int] | None = None,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> list[Completion]:
    """Fill in the editable positions of each row; nothing else ever changes.

    Args:
        denoiser: the network; see `unmask.types.Denoiser`.
        rows: token ids.
        editable: True where a token is to be written; None: wherever the mask token stands.
        options: see `GenerationOptions`; blocks are counted from the row's beginning.
        mask_token_id: the mask token.
        seeds: one per row; None: `options.seed` + row.
        vocab_size: where known, the rows' ids are checked against it before anything runs.
        device: where the denoiser computes.

    Returns:
        One completion per row: the whole row, all blanks filled; a stop token does not end it.

    Raises:
        ConfigError: a wrong id, number of seeds or shape of `editable`.
        ModelError: the denoiser's logits are not numbers.
    """
    return stream_infill(
        denoiser,
        rows,
        editable,
        options=options,
        mask_token_id=mask_token_id,
        seeds=seeds,
        vocab_size=vocab_size,
        device=device,
    ).run()


def row_seeds(options: GenerationOptions, seeds: Sequence[int] | None, rows: int) -> tuple[int, ...]:
    """The seed of each row."""
    if seeds is None:
        return tuple(options.seed + row for row in range(rows))
    if len(seeds) != rows:
        raise ConfigError(f"{len(seeds)} seeds for {rows} rows; give one seed per row.")
    return tuple(whole_number("a seed", seed) for seed in seeds)


def check_rows(rows: Sequence[Sequence[int]], vocab_size: int | None, what: str, numbers: Sequence[int]) -> None:
    """Refuse ids that the model has no row for, by the numbers of their rows."""
    for number, row in zip(numbers, rows, strict=True):
        for token_id in row:
            if token_id < 0 or (vocab_size is not None and token_id >= vocab_size):
                allowed = f"0 to {vocab_size - 1}" if vocab_size is not None else "at least 0"
                raise ConfigError(f"{what} {number} holds token id {token_id}; the model knows ids {allowed}.")
