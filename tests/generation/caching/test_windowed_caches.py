"""Approximate caches: exact where they refresh always, the same for a row wherever it stands, and honest in figures."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.generation.caching.spy import MASK, Counting, assert_same_logits, watch
from tests.models.tiny import build
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions
from unmask.models.kv_cache import KVCache
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES

KINDS = ("llada", "dream", "llada_moe")
CACHES = ("prefix", "dual", "vicinity", "interval")
PROMPTS = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11, 12, 13], [14, 15], [20] * 11]
KNOBS: list[dict[str, Any]] = [
    {},
    {"cache_before": 3, "cache_after": 2},
    {"cache_delay": 2, "cache_interval": 3},
    {"cache_warmup": 2},
    {"cache_horizon": 2},
    {"cache_horizon": 0, "cache_before": 0, "cache_after": 0},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@cache
def model_in(folder: Path, kind: str) -> DiffusionModel:
    return build(folder / kind, FAMILIES.get(kind)).double().eval()


def options(**changes: Any) -> dict[str, Any]:
    return {"max_new_tokens": 10, "block_size": 4, "early_stop": False, "threshold": 0.3, **changes}


@pytest.mark.parametrize("guidance", [0.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_refreshed_at_every_step_they_are_exact(
    kind: str, guidance: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, settings = model_in(folder, kind), options(block_size=None, guidance_scale=guidance)
    without = watch(monkeypatch, model, PROMPTS, **settings, cache="none")
    for name in CACHES:
        seen = watch(monkeypatch, model, PROMPTS, **settings, cache=name, cache_interval=1)
        assert_same_logits(seen.shown, without.shown)
        assert all(row.stats.forwards.refresh == row.stats.forwards.total for row in seen.done)


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_of_everything_is_exact(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, settings = model_in(folder, kind), options()
    without = watch(monkeypatch, model, PROMPTS, **settings, cache="none")
    for name in CACHES:
        seen = watch(monkeypatch, model, PROMPTS, **settings, cache=name, cache_before=99, cache_after=99)
        assert_same_logits(seen.shown, without.shown)


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
@pytest.mark.parametrize("name", CACHES)
def test_a_row_of_a_ragged_batch_is_the_row_alone(
    name: str, knobs: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = CACHES.index(name) + KNOBS.index(knobs)
    model, stops = model_in(folder, KINDS[number % 3]), tuple(range(0, 60, 7))
    settings = options(**knobs, cache=name, early_stop=True, guidance_scale=0.5 * (number % 2))
    together = watch(monkeypatch, model, PROMPTS, stops, **settings)
    for row, prompt in enumerate(PROMPTS):
        alone = watch(monkeypatch, model, [prompt], stops, **settings)
        assert alone.done[0].token_ids == together.done[row].token_ids
        assert_same_logits(alone.row(0), together.row(row))
        assert alone.done[0].stats.forwards == together.done[row].stats.forwards


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
@pytest.mark.parametrize("name", CACHES)
def test_figures_agree_with_what_the_model_was_fed(name: str, knobs: dict[str, Any], folder: Path) -> None:
    guidance = float(KNOBS.index(knobs) % 2)
    model = Counting(model_in(folder, "dream"))
    given = options(**knobs, cache=name, guidance_scale=guidance, strategy="threshold")
    done = generate(model, PROMPTS, options=GenerationOptions.of(**given), mask_token_id=MASK)
    assert sum(row.stats.positions for row in done) == model.fed
    assert sum(row.stats.forwards.total for row in done) == model.rows // (2 if guidance else 1)
    assert all(row.stats.forwards.refresh >= 1 and row.stats.forwards.commit == 0 for row in done)


def test_rows_at_blocks_of_their_own_share_a_forward_of_their_windows(folder: Path) -> None:
    """Pitfall 5 (d): columns are per row, not those of the first one."""
    model = Counting(model_in(folder, "llada"))
    given = options(cache="dual", strategy="confidence", steps_per_block=4, max_new_tokens=8)
    done = generate(model, PROMPTS[:2], options=GenerationOptions.of(**given), mask_token_id=MASK)
    assert model.rows == sum(row.stats.forwards.total for row in done) == 16
    # each block: one forward of both rows whole, then three of four columns of each
    assert model.fed == 2 * (2 * 16 + 3 * 2 * 4)


@pytest.mark.parametrize(("name", "last"), [("prefix", 13), ("dual", 9)])
@torch.no_grad()
def test_until_a_refresh_the_rest_answers_to_what_was_there_when_the_block_began(
    name: str, last: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 5 (a) to (c): prompt and suffix are stale, the block's own tokens are not."""
    model, settings = model_in(folder, "llada"), options(threshold=1.0, max_new_tokens=8, trace=True)
    seen = watch(monkeypatch, model, PROMPTS[:1], **settings, cache=name)
    without = watch(monkeypatch, model, PROMPTS[:1], **settings, cache="none")
    assert_same_logits({0: seen.row(0)[0, 0]}, {0: without.row(0)[0, 0]})
    tokens = torch.tensor([PROMPTS[0] + [MASK] * 8])
    kept = model.new_cache(1, 13)
    model(tokens, cache=kept)
    assert seen.done[0].trace is not None
    commit = seen.done[0].trace.commits[0]
    tokens[0, list(commit.positions)] = torch.tensor(commit.token_ids)
    pending = [place for place in range(5, 9) if place not in commit.positions]
    kept.place(5, 13)
    stale = model(tokens[:, 5:last], cache=kept).logits[0, [place - 5 for place in pending]]
    stale[:, MASK] = -torch.inf
    assert_same_logits({0: seen.row(0)[0, 1]}, {0: stale})
    assert (stale - without.row(0)[0, 1])[:, :MASK].abs().max() > 1e-6


@pytest.mark.parametrize("horizon", [0, 2, 6])
@pytest.mark.parametrize("name", CACHES)
def test_what_was_never_fed_is_not_seen(name: str, horizon: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = model_in(folder, "llada"), []
    for filling in (0.0, 3.0):

        def filled(rows: int, columns: int, number: float = filling) -> KVCache:
            kept = type(model).new_cache(model, rows, columns)
            kept.keys.fill_(number)
            kept.values.fill_(number)
            return kept

        monkeypatch.setattr(model, "new_cache", filled)
        settings = options(cache=name, cache_horizon=horizon, max_new_tokens=24, steps=6)
        found.append(watch(monkeypatch, model, PROMPTS, **settings))
    assert_same_logits(found[0].shown, found[1].shown)
