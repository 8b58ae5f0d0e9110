"""The block cache is exact: logits, tokens and text ends are those of decoding without it."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.generation.caching.spy import MASK, Counting, assert_same_logits, watch
from tests.models.tiny import build
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES

# dense, shifted, sparse; block-causal by themselves or asked to be
KINDS = ("a2d-qwen3", "dream", "llada2", "llada_moe")
PROMPTS = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11, 12, 13], [14, 15], [], [20] * 11]
STRATEGIES = ("confidence", "random", "margin", "entropy", "threshold", "factor", "entropy_bounded", "klass")
STRATEGIES += ("slow_fast", "adaptive", "local_leap", "llada2", "dream", "edit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@cache
def model_in(folder: Path, kind: str) -> DiffusionModel:
    return build(folder / kind, FAMILIES.get(kind)).double().eval()


def options(**changes: Any) -> dict[str, Any]:
    return {"max_new_tokens": 9, "block_size": 4, "attention": "block_causal", "early_stop": False, **changes}


@pytest.mark.parametrize("guidance", [0.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_without_it(kind: str, guidance: float, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, settings = model_in(folder, kind), options(guidance_scale=guidance, threshold=0.2)
    with_it = watch(monkeypatch, model, PROMPTS, **settings, cache="block")
    without = watch(monkeypatch, model, PROMPTS, **settings, cache="none")
    assert_same_logits(with_it.shown, without.shown)
    assert [row.token_ids for row in with_it.done] == [row.token_ids for row in without.done]
    assert sum(row.stats.positions for row in with_it.done) < sum(row.stats.positions for row in without.done)


@pytest.mark.parametrize("part", range(8))
def test_200_random_cases(part: int, folder: Path) -> None:
    for case in range(part, 200, 8):
        chance = random.Random(case)
        prompts = [[chance.randrange(60) for _ in range(chance.randrange(12))] for _ in range(chance.randint(1, 2))]
        given = options(
            max_new_tokens=chance.randint(1, 7),
            block_size=chance.choice((1, 2, 3, 4, 8)),
            steps_per_block=chance.choice((1, 2, 4, 8)),
            strategy=chance.choice(STRATEGIES),
            temperature=chance.choice((0.0, 0.0, 1.0)),
            guidance_scale=chance.choice((0.0, 0.0, 0.0, 1.5)),
            early_stop=chance.choice((True, False)),
            max_post_steps=1,
            seed=case,
        )
        model = model_in(folder, KINDS[case % len(KINDS)])
        stops = chance.sample(range(60), 20)
        runs = [
            generate(
                model,
                prompts,
                options=GenerationOptions.of(**given, precise_sampling=True, cache=name),
                mask_token_id=MASK,
                stop_token_ids=stops,
            )
            for name in ("block", "none")
        ]
        with_it, without = ([(row.token_ids, row.finish_reason) for row in run] for run in runs)
        assert with_it == without, (case, given)


def test_rows_that_leave_at_different_times_leave_the_others_as_they_were(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, settings, stops = model_in(folder, "dream"), options(early_stop=True, cache="block"), tuple(range(0, 60, 7))
    together = watch(monkeypatch, model, PROMPTS, stops, **settings)
    assert len({len(row.token_ids) for row in together.done}) > 2
    assert {row.finish_reason for row in together.done} == {"stop", "length"}
    for number, prompt in enumerate(PROMPTS):
        alone = watch(monkeypatch, model, [prompt], stops, **settings)
        assert alone.done[0].token_ids == together.done[number].token_ids
        assert_same_logits(alone.row(0), together.row(number))


@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_every_column_is_fed_once_as_text_and_blocks_once_a_step(guidance: float, folder: Path) -> None:
    model = Counting(model_in(folder, "llada2"))
    given = options(max_new_tokens=11, steps_per_block=4, guidance_scale=guidance, cache="block")
    done = generate(model, PROMPTS[:1], options=GenerationOptions.of(**given), mask_token_id=MASK)[0]
    # blocks of 3, 4 and 4 masks, one a step; a block's first step feeds what came before it, once
    assert done.stats.forwards.total == 3 + 4 + 4
    copies = 2 if guidance else 1
    assert done.stats.positions == model.fed == copies * ((8 + 4 * 2) + (8 + 4 * 3) + (8 + 4 * 3))
    assert done.stats.forwards.commit == done.stats.forwards.refresh == 0
