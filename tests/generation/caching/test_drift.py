"""The whole row is fed again when what stayed as it was has moved far enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.tiny import build
from tests.tiny import write_left_to_right
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions
from unmask.lm import load
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES

MASK = 15


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    return build(tmp_path_factory.mktemp("model"), FAMILIES.get("llada"))


def refreshes(model: DiffusionModel, prompts: list[list[int]], **settings: object) -> list[int]:
    options = GenerationOptions.of(
        max_new_tokens=16, block_size=8, steps=16, early_stop=False, cache="dual", **settings
    )
    done = generate(model, prompts, options=options, mask_token_id=MASK)
    assert all(row.stats.forwards.total == 16 for row in done)
    return [row.stats.forwards.refresh for row in done]


def test_the_nearer_the_limit_the_more_often(model: DiffusionModel) -> None:
    prompts = [[5, 6, 7]]
    (never,), (rarely,), (always,) = (refreshes(model, prompts, cache_drift=limit) for limit in (1e9, 0.05, 0.0))
    # what moved is known after a step that fed only a part: every other step feeds all
    assert never == 2 and always == 8 and never <= rarely <= always
    assert refreshes(model, prompts) == [2]


def test_a_row_of_a_batch_drifts_as_it_does_alone(model: DiffusionModel) -> None:
    prompts = [[5, 6, 7], [9], [4, 4, 4, 4, 8, 8]]
    together = refreshes(model, prompts, cache_drift=0.05)
    assert together == [refreshes(model, [prompt], cache_drift=0.05)[0] for prompt in prompts]


def test_a_row_drifts_as_it_does_alone_when_others_leave(model: DiffusionModel) -> None:
    options = GenerationOptions(
        max_new_tokens=16, block_size=8, strategy="threshold", threshold=0.3, cache="dual", cache_drift=0.05
    )
    prompts = [[5, 6, 7], [9], [4, 4, 4, 4, 8, 8], [11, 12]]
    together = generate(model, prompts, options=options, mask_token_id=MASK)
    assert len({row.stats.forwards.total for row in together}) > 1
    for prompt, row in zip(prompts, together, strict=True):
        alone = generate(model, [prompt], options=options, mask_token_id=MASK)[0]
        assert (alone.token_ids, alone.stats.forwards) == (row.token_ids, row.stats.forwards)


@pytest.mark.parametrize("attention", ["block_causal", "bidirectional"])
@pytest.mark.parametrize("guesses", [0, 1])
def test_an_exact_cache_and_none_do_not_ask(model: DiffusionModel, attention: str, guesses: int) -> None:
    settings: dict[str, object] = {"max_new_tokens": 32, "block_size": 8, "steps": 64, "early_stop": False}
    settings |= {"attention": attention, "strategy": "threshold", "threshold": 0.03, "speculate": guesses}
    with_limit, without = (
        generate(model, [[5, 6, 7, 8], [9]], options=GenerationOptions.of(**settings, **more), mask_token_id=MASK)
        for more in ({"cache_drift": 0.1}, {})
    )
    assert with_limit == without


def test_nor_does_one_from_left_to_right(tmp_path: Path) -> None:
    lm = load(write_left_to_right(tmp_path / "model"), device="cpu")
    with_limit, without = (
        lm.generate(["hello", "abc"], max_new_tokens=6, **more) for more in ({"cache_drift": 0.1}, {})
    )
    assert with_limit == without
