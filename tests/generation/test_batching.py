"""Rows that take each other's places are the rows alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.generation.toys import Contextual
from tests.models.tiny import build
from unmask.errors import ConfigError
from unmask.generation.batching import continuous
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions
from unmask.generation.rows import Waiting
from unmask.generation.trace import Completion
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES

MASK, STOP = 15, 3


def prompts(count: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 9, (count,), generator=draw).tolist()
    return [torch.randint(4, 14, (length,), generator=draw).tolist() for length in lengths]


def together(denoiser: Any, rows: list[list[int]], options: GenerationOptions, size: int) -> dict[int, Completion]:
    waiting = (Waiting(row, options.seed + number) for number, row in enumerate(rows))
    found = continuous(denoiser, waiting, options=options, mask_token_id=MASK, stop_token_ids=(STOP,), batch_size=size)
    done = list(found)
    assert sorted(number for number, _ in done) == list(range(len(rows)))
    return dict(done)


@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_come_and_go_are_the_rows_alone(size: int, temperature: float) -> None:
    options = GenerationOptions(
        max_new_tokens=6, block_size=4, strategy="threshold", threshold=0.3, temperature=temperature, trace=True
    )
    rows = prompts(11)
    done = together(Contextual(), rows, options, size)
    for number, row in enumerate(rows):
        seeds = [options.seed + number]
        alone = generate(Contextual(), [row], options=options, mask_token_id=MASK, stop_token_ids=(STOP,), seeds=seeds)[
            0
        ]
        assert done[number].token_ids == alone.token_ids and done[number].finish_reason == alone.finish_reason
        assert done[number].stats.forwards == alone.stats.forwards
        assert [entry.positions for entry in done[number].trace.commits] == [
            entry.positions for entry in alone.trace.commits
        ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    return build(tmp_path_factory.mktemp("model"), FAMILIES.get("llada")).double()


CACHES = ["none", "block", "prefix", "dual", "vicinity", "interval", "verify"]


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("guidance_scale", [0.0, 0.7])
def test_caches_follow_rows_that_come_and_go(model: DiffusionModel, cache: str, guidance_scale: float) -> None:
    options = GenerationOptions(
        max_new_tokens=9,
        block_size=4,
        strategy="threshold",
        threshold=0.1,
        cache=cache,
        guidance_scale=guidance_scale,
        attention="block_causal" if cache == "block" else "bidirectional",
    )
    rows = prompts(7)
    done = together(model, rows, options, 3)
    for number, row in enumerate(rows):
        alone = generate(model, [row], options=options, mask_token_id=MASK, stop_token_ids=(STOP,))[0]
        assert done[number].token_ids == alone.token_ids


@pytest.mark.parametrize(
    ("cache", "more"),
    [
        (cache, more)
        for cache in CACHES
        for more in ({}, {"guidance_scale": 0.7}, {"strategy": "credit"}, {"speculate": 1})
        if "speculate" not in more or cache in ("none", "block")
    ],
)
@pytest.mark.parametrize("count", [4, 5])
def test_a_batch_that_ends_at_once_makes_room_for_fewer(
    model: DiffusionModel, cache: str, more: dict[str, Any], count: int
) -> None:
    attention = "block_causal" if cache == "block" else "bidirectional"
    options = GenerationOptions(
        max_new_tokens=8, block_size=4, early_stop=False, cache=cache, attention=attention, **more
    )
    rows = prompts(count)
    done = together(model, rows, options, 3)
    for number, row in enumerate(rows):
        alone = generate(model, [row], options=options, mask_token_id=MASK, stop_token_ids=(STOP,))[0]
        assert done[number].token_ids == alone.token_ids


def test_prompts_are_read_as_places_become_free() -> None:
    read = []

    def endless():
        number = 0
        while True:
            read.append(number)
            yield Waiting([5, 6], number)
            number += 1

    options = GenerationOptions(max_new_tokens=4, block_size=4, steps=4)
    found = continuous(Contextual(), endless(), options=options, mask_token_id=MASK, batch_size=2)
    assert [next(found)[0] for _ in range(3)] == [0, 1, 2] and len(read) == 4


def test_a_wrong_id_is_named_with_the_prompts_number() -> None:
    options = GenerationOptions(max_new_tokens=4, block_size=4, steps=4)
    found = continuous(
        Contextual(),
        [Waiting([1], 0), Waiting([99], 0)],
        options=options,
        mask_token_id=MASK,
        batch_size=1,
        vocab_size=16,
    )
    next(found)
    with pytest.raises(ConfigError, match="prompt 1 holds token id 99"):
        next(found)
