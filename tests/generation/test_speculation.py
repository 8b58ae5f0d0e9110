"""States guessed ahead change how many forwards are made, and nothing else."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tests.generation.toys import Contextual
from tests.models.tiny import build
from unmask.errors import ConfigError
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions
from unmask.generation.trace import Completion
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES

MASK, STOP = 15, 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DiffusionModel]:
    """A model whose row i predicts token i, and one whose row i predicts token i + 1."""
    return {name: build(tmp_path_factory.mktemp(name), FAMILIES.get(name)).double() for name in ("llada", "dream")}


@pytest.fixture(scope="module")
def model(models: dict[str, DiffusionModel]) -> DiffusionModel:
    return models["llada"]


def decode(model: Any, prompts: list[list[int]], **settings: Any) -> list[Completion]:
    options = GenerationOptions(**{"early_stop": True, **settings})
    return generate(model, prompts, options=options, mask_token_id=MASK, stop_token_ids=(STOP,))


def case(draw: random.Random) -> tuple[list[list[int]], dict[str, Any]]:
    rows = draw.choice([1, 1, 2, 3])
    prompts = [[draw.randrange(4, 14) for _ in range(draw.randrange(1, 9))] for _ in range(rows)]
    is_blockwise = draw.random() < 0.5
    settings: dict[str, Any] = {
        "max_new_tokens": draw.randrange(1, 14),
        "block_size": draw.choice([2, 3, 4, 8]),
        "steps": draw.choice([4, 8, 16]),
        "strategy": draw.choice(["confidence", "threshold", "factor", "random", "margin"]),
        "threshold": draw.choice([0.02, 0.1, 0.9]),
        "temperature": draw.choice([0.0, 0.0, 1.0]),
        "attention": "block_causal" if is_blockwise else "bidirectional",
        "cache": draw.choice(["none", "block"]) if is_blockwise else "none",
        "min_new_tokens": draw.choice([0, 3]),
        "guidance_scale": draw.choice([0.0, 0.0, 1.5]),
        "guidance_keep": draw.choice([(), (5, 6)]),
    }
    return prompts, settings


@pytest.mark.parametrize("number", [*range(60), *(pytest.param(n, marks=pytest.mark.long) for n in range(60, 200))])
def test_the_same_is_written_whatever_is_guessed(models: dict[str, DiffusionModel], number: int) -> None:
    draw = random.Random(number)
    prompts, settings = case(draw)
    model = models[draw.choice(["llada", "dream"])]
    plain = decode(model, prompts, **settings)
    ahead = decode(model, prompts, speculate=draw.choice([1, 2, 5]), **settings)
    for ours, theirs in zip(ahead, plain, strict=True):
        assert ours.token_ids == theirs.token_ids and ours.finish_reason == theirs.finish_reason
        assert ours.stats.forwards.total <= theirs.stats.forwards.total
    for fuse in (True, False):
        if settings["cache"] == "block":
            apart = decode(model, prompts, cache_fuse=fuse, **{**settings, "cache": "block"})
            assert [row.token_ids for row in apart] == [row.token_ids for row in plain]


def test_where_the_guesses_hold_forwards_are_saved() -> None:
    class Settled(Contextual):
        """What is wanted does not depend on what is there."""

        def logits_BLV(self, tokens_BL: torch.Tensor, is_valid_BL: torch.Tensor) -> torch.Tensor:
            return self.place[: tokens_BL.shape[1]].expand(len(tokens_BL), -1, -1)

    settings = {"max_new_tokens": 16, "block_size": 8, "steps": 16, "early_stop": False}
    plain, ahead = Settled(), Settled()
    (slow,), (fast,) = decode(plain, [[5]], **settings), decode(ahead, [[5]], speculate=3, **settings)
    assert fast.token_ids == slow.token_ids
    # a block's first step has nothing to guess from; then four steps for each forward
    assert (slow.stats.forwards.total, fast.stats.forwards.total) == (16, 6)
    assert fast.stats.positions == sum(rows * length for rows, length in ahead.shapes)


def test_storing_a_block_apart_is_counted_apart(model: DiffusionModel) -> None:
    settings = {"max_new_tokens": 12, "block_size": 4, "steps": 12, "early_stop": False, "attention": "block_causal"}
    fused = decode(model, [[5, 6, 7, 8]], cache="block", **settings)[0].stats.forwards
    apart = decode(model, [[5, 6, 7, 8]], cache="block", cache_fuse=False, **settings)[0].stats.forwards
    assert (fused.denoise, fused.commit) == (12, 0) and (apart.denoise, apart.commit) == (12, 2)


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        ({"strategy": "klass"}, 'strategy "klass" takes tokens back or remembers'),
        ({"cache": "dual"}, 'which cache "dual" is not'),
    ],
)
def test_what_does_not_go_together_is_said(model: DiffusionModel, settings: dict[str, Any], phrase: str) -> None:
    with pytest.raises(ConfigError, match=phrase):
        decode(model, [[5]], speculate=2, **settings)


@pytest.mark.parametrize("name", ["llada", "dream"])
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_forwards_are_saved_with_the_exact_cache_in_every_family(
    models: dict[str, DiffusionModel], name: str, guidance: float
) -> None:
    settings = {"max_new_tokens": 24, "block_size": 8, "steps": 24, "early_stop": False, "attention": "block_causal"}
    settings |= {"cache": "block", "guidance_scale": guidance}
    (plain,), (ahead,) = (decode(models[name], [[5, 6, 7]], speculate=guesses, **settings) for guesses in (0, 4))
    assert ahead.token_ids == plain.token_ids
    assert ahead.stats.forwards.total < plain.stats.forwards.total


def test_no_more_is_guessed_than_there_is_to_write(model: DiffusionModel) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 8, "block_size": 8, "steps": 8, "early_stop": False}
    (plain,), (all_of_it,), (more,) = (
        decode(model, [[5, 6]], speculate=guesses, **settings) for guesses in (0, 7, 999)
    )
    assert more == all_of_it and more.token_ids == plain.token_ids
    # beside the true state one for each mask but the last, from the second step on
    assert more.stats.positions <= 10 + 10 * sum(range(1, 8))
