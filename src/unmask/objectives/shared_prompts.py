"""Rows of a causal network that begin alike: what they share is computed once, in a cache. Knows no likelihoods.

What is behind a token changes neither its key nor its value there, so that they are those of each row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unmask.models.kv_cache import KVCache
from unmask.types import Denoiser

# batch rows and columns -> empty storage
NewCache = Callable[[int, int], KVCache]
Prompt = tuple[int, ...]


class Line(NamedTuple):
    """A row to be fed, int64 ids `[L]` on the CPU, and its prompt: what is before the first column asked about."""

    ids: Tensor
    prompt: Prompt

    @staticmethod
    def of(ids: Int[Tensor, " L"], first: int) -> Line:
        """A row of which the column `first` is the first that something is asked of."""
        return Line(ids, tuple(ids[:first].tolist()))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


class Rest(NamedTuple):
    """What is still to be fed of some lines, in one forward.

    Attributes:
        numbers: of the lines. starts: the column of each one's first token.
        tokens_BL: int64, padded at the ends, on the device.
        cache: what is before the tokens; None: nothing is.
    """

    numbers: list[int]
    starts: list[int]
    tokens_BL: Int[Tensor, "B L"]
    cache: KVCache | None


@torch.no_grad()
def rests(
    denoiser: Denoiser,
    new_cache: NewCache | None,
    lines: Sequence[Line],
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> Iterator[Rest]:
    """Compute what lines share, and say what is left of them; each is to be fed before the next is asked for.

    Args:
        denoiser: causal.
        new_cache: makes its storage, of `batch_size` rows at most; None: nothing is shared.
        lines: in any order.
        batch_size: lines per forward.
        device: the denoiser's.
    """
    if new_cache is None:
        # as if there were no prompts
        lines = [Line(line.ids, ()) for line in lines]
    for numbers in batches(lines, batch_size):
        own = [lines[number] for number in numbers]
        prompts = list(dict.fromkeys(line.prompt for line in own))
        common = shared(prompts)
        asked = [line.prompt for line in own if line.prompt]
        if len(set(asked)) == len(asked):
            prompts, of_line = [prompts[0][:common]], [0] * len(own)
        else:
            of_line = [prompts.index(line.prompt) for line in own]
        starts = [len(prompts[prompt]) for prompt in of_line]
        left = [line.ids[start:] for line, start in zip(own, starts, strict=True)]
        tokens_BL, cache = pad_sequence(left, batch_first=True).to(device), None
        if new_cache is not None and any(starts):
            width, longest = tokens_BL.shape[1], max(starts)
            cache = new_cache(1 if common else len(prompts), longest + width)
            _fill(denoiser, cache, prompts, common, device)
            cache.keep(of_line)
            cache.place((torch.tensor(starts)[:, None] + torch.arange(width)).to(device), longest + width)
        yield Rest(numbers, starts, tokens_BL, cache)


def _fill(
    denoiser: Denoiser, cache: KVCache, prompts: Sequence[Prompt], common: int, device: torch.device | str
) -> None:
    """Leave a row for each prompt in the cache; the first `common` tokens, which all have, are fed once."""

    def feed(rows: Sequence[Prompt]) -> None:
        tokens_BL = pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True)
        # nothing is asked; a network that is asked nothing would compute its head everywhere
        denoiser(tokens_BL.to(device), cache=cache, logits_at=torch.zeros(1, dtype=torch.int64, device=device))

    if common:
        feed([prompts[0][:common]])
        cache.keep([0] * len(prompts))
    if max(map(len, prompts)) > common:
        feed([prompt[common:] for prompt in prompts])


def batches(lines: Sequence[Line], batch_size: int) -> Iterator[list[int]]:
    """Numbers of lines to be fed together: those of one prompt, of prompts that begin alike, of one length."""
    of_prompt: dict[Prompt, list[int]] = {}
    for number, line in enumerate(lines):
        of_prompt.setdefault(line.prompt, []).append(number)
    for is_shared in (True, False):
        # what follows no prompt shares nothing, however much of it there is
        chosen = [prompt for prompt, own in of_prompt.items() if (len(own) > 1 and len(prompt) > 0) == is_shared]
        for family in families(chosen):
            # rows of one length together: nothing is padded, or little
            family = sorted(family, key=lambda prompt: (-len(prompt), prompt))
            ordered = [number for prompt in family for number in of_prompt[prompt]]
            if not is_shared:
                ordered.sort(key=lambda number: -len(lines[number].ids))
            yield from (ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size))


def families(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Prompts of which a half or more is the same, like questions after the same examples; the others in one list."""
    found: list[list[Prompt]] = []
    for prompt in sorted(prompts):
        if found and shared([found[-1][0], prompt]):
            found[-1].append(prompt)
        else:
            found.append([prompt])
    return [family for family in found if len(family) > 1] + [
        [prompt for family in found if len(family) == 1 for prompt in family]
    ]


def shared(prompts: Sequence[Prompt]) -> int:
    """How many tokens prompts begin with in common; 0 where this is less than half of the longest, or of one alone."""
    first, last = min(prompts), max(prompts)
    same = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(first, last, strict=False)))
    return same if len(prompts) > 1 and 2 * same >= max(map(len, prompts)) else 0
