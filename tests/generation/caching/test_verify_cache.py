"""The cache that computes anew what has moved: exact where it leaves nothing out, and the method's rule elsewhere."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.generation.caching.spy import MASK, assert_same_logits, watch
from tests.models.tiny import build
from unmask.errors import ConfigError
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES

KINDS = ("llada", "dream", "llada_moe")
KNOBS: list[dict[str, Any]] = [{}, {"cache_share": 0.5, "cache_answer_interval": 2}, {"cache_interval": 3}]
PROMPTS = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11, 12, 13], [14, 15], [20] * 11]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@cache
def model_in(folder: Path, kind: str) -> DiffusionModel:
    return build(folder / kind, FAMILIES.get(kind)).double().eval()


def options(**changes: Any) -> dict[str, Any]:
    return {"max_new_tokens": 10, "block_size": 4, "early_stop": False, "threshold": 0.3, "cache": "verify", **changes}


@pytest.mark.parametrize("guidance", [0.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_exact_where_everything_is_computed_anew(
    kind: str, guidance: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, settings = model_in(folder, kind), options(guidance_scale=guidance)
    without = watch(monkeypatch, model, PROMPTS, **{**settings, "cache": "none"})
    seen = watch(monkeypatch, model, PROMPTS, **settings, cache_interval=1)
    assert_same_logits(seen.shown, without.shown)
    # without a prompt, all of the answer is all of the row; a router in float32 sees what is fed besides
    alone = watch(monkeypatch, model, [[]], **{**settings, "cache": "interval"}, cache_interval=1)
    for knobs in ({"cache_share": 1.0}, {"cache_answer_interval": 1}):
        assert_same_logits(watch(monkeypatch, model, [[]], **settings, **knobs).shown, alone.shown)
    approximate = watch(monkeypatch, model, [[]], **settings)
    steps = [step for step in approximate.shown if step in alone.shown]
    moved = [(approximate.shown[step] - alone.shown[step])[:, :MASK].abs().max() for step in steps[:2]]
    assert max(moved) > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_share_of_all_is_the_answer_at_every_step(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, settings = model_in(folder, kind), options()
    shares = watch(monkeypatch, model, PROMPTS, **settings, cache_share=1.0)
    always = watch(monkeypatch, model, PROMPTS, **settings, cache_answer_interval=1)
    assert_same_logits(shares.shown, always.shown)


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_a_ragged_batch_is_the_row_alone(
    kind: str, knobs: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, stops = model_in(folder, kind), tuple(range(0, 60, 7))
    settings = options(**knobs, early_stop=True, guidance_scale=0.5 * bool(knobs), threshold=0.9)
    together = watch(monkeypatch, model, PROMPTS, stops, **settings)
    for row, prompt in enumerate(PROMPTS):
        alone = watch(monkeypatch, model, [prompt], stops, **settings)
        assert alone.done[0].token_ids == together.done[row].token_ids
        assert_same_logits(alone.row(0), together.row(row))
        assert alone.done[0].stats.forwards == together.done[row].stats.forwards


def test_only_what_is_computed_anew_counts(folder: Path) -> None:
    given = options(strategy="confidence", steps=10, cache_share=0.3, cache_answer_interval=4, cache_interval=8)
    done = generate(model_in(folder, "llada"), PROMPTS[:1], options=GenerationOptions.of(**given), mask_token_id=MASK)[
        0
    ]
    assert (done.stats.forwards.refresh, done.stats.forwards.denoise) == (2, 8)
    # ten steps: the row of 15 twice, the answer of 10 once, 3 of it seven times
    assert done.stats.positions == 2 * 15 + 10 + 7 * 3


class ByHand:
    """The method in one row, written out: what each layer keeps are lists of keys, values and what it added."""

    def __init__(self, model: DiffusionModel, share: float) -> None:
        self.model, self.share, self.layers = model, share, list(model.trunk.layers)
        self.kept: list[dict[str, Tensor]] = []

    def keys_and_values(self, layer: Any, x_LD: Tensor, positions: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        normed = layer.attention_norm(x_LD)
        q, k, v = (
            getattr(layer.attention, name)(normed).unflatten(-1, (-1, layer.attention.head_width))
            for name in ("q_proj", "k_proj", "v_proj")
        )
        return self.turned(q, positions), self.turned(k, positions), v

    def turned(self, x_LHK: Tensor, positions: list[int]) -> Tensor:
        width = x_LHK.shape[-1]
        theta = self.model.facts.shape.rope_theta
        angle = torch.tensor(
            [[p / theta ** (2 * (i % (width // 2)) / width) for i in range(width)] for p in positions],
            dtype=torch.float64,
        )
        first, second = x_LHK.chunk(2, -1)
        return x_LHK * angle.cos()[:, None] + torch.cat([-second, first], -1) * angle.sin()[:, None]

    def added(self, layer: Any, x_LD: Tensor, q_LHK: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        shared = q_LHK.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(shared, 1), values.repeat_interleave(shared, 1)
        score = torch.einsum("qhk,lhk->hql", q_LHK, keys) / math.sqrt(q_LHK.shape[-1])
        seen = torch.einsum("hql,lhk->qhk", score.softmax(-1), values).flatten(1)
        middle = x_LD + layer.attention.o_proj(seen)
        return middle + layer.mlp(layer.mlp_norm(middle)) - x_LD

    def first(self, ids: list[int]) -> Tensor:
        x, places = self.model.trunk.embed(torch.tensor(ids)), list(range(len(ids)))
        for layer in self.layers:
            q, k, v = self.keys_and_values(layer, x, places)
            change = self.added(layer, x, q, k, v)
            self.kept.append({"k": k.clone(), "v": v.clone(), "change": change.clone()})
            x = x + change
        return self.model.head(self.model.trunk.norm(x))

    def next(self, ids: list[int], text: int) -> Tensor:
        """All that follows `text` is one block: of columns that moved as far, masks come first, then earlier ones."""
        is_mask = [token == MASK for token in ids[text:]]
        x, places = self.model.trunk.embed(torch.tensor(ids[text:])), list(range(text, len(ids)))
        for layer, kept in zip(self.layers, self.kept, strict=True):
            q, k, v = self.keys_and_values(layer, x, places)
            new, old = v.flatten(1), kept["v"][text:].flatten(1)
            alike = [round(float(a @ b / (a.norm() * b.norm())), 4) for a, b in zip(new, old, strict=True)]
            order = sorted(zip(alike, [not mask for mask in is_mask], range(len(x)), strict=True))
            chosen = [place for _, _, place in order[: math.ceil(self.share * len(x))]]
            for place in chosen:
                kept["k"][text + place], kept["v"][text + place] = k[place], v[place]
            change = kept["change"][text:].clone()
            change[chosen] = self.added(layer, x[chosen], q[chosen], kept["k"], kept["v"])
            kept["change"][text:] = change
            x = x + change
        return self.model.head(self.model.trunk.norm(x))


@pytest.mark.parametrize("share", [0.2, 0.6])
@torch.no_grad()
def test_each_layer_computes_the_columns_whose_values_moved_most(
    share: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = model_in(folder, "llada"), [*PROMPTS[0], *[MASK] * 8]
    settings = options(max_new_tokens=8, block_size=8, threshold=1.0, cache_share=share, trace=True)
    seen = watch(monkeypatch, model, PROMPTS[:1], **settings)
    trace, by_hand = seen.done[0].trace, ByHand(model, share)
    assert trace is not None
    for step, commit in enumerate(trace.commits[:4]):
        expected = by_hand.first(ids)[5:] if step == 0 else by_hand.next(ids, 5)
        pending = [place for place in range(8) if ids[5 + place] == MASK]
        # the model's angles are float32
        torch.testing.assert_close(seen.row(0)[0, step][:, :MASK], expected[pending][:, :MASK], atol=1e-5, rtol=1e-5)
        for place, token in zip(commit.positions, commit.token_ids, strict=True):
            ids[place] = token


def test_drift_is_not_measured_beside_it(folder: Path) -> None:
    given = GenerationOptions.of(**options(cache_drift=0.1, strategy="threshold"))
    with pytest.raises(ConfigError, match='cache "verify" looks at values layer by layer: leave cache_drift out'):
        generate(model_in(folder, "llada"), PROMPTS, options=given, mask_token_id=MASK)
