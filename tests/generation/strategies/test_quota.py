"""The three orders where they disagree, and positions drawn with a temperature (Dream's alg_temp)."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest
import torch

from tests.generation.scenes import decide, places, scene, with_mask
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions
from unmask.models.checkpoints import load_model

# three predictions over eleven tokens: the most probable token, the widest lead, the least entropy
PROBABLE = [0.70] + [0.10] * 3 + [0.0] * 7
AHEAD = [0.65] + [0.035] * 10
CERTAIN = [0.60, 0.40] + [0.0] * 9
SHOWN = with_mask(torch.tensor([[PROBABLE, AHEAD, CERTAIN]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "first", "last"), [("confidence", 0, 2), ("margin", 1, 2), ("entropy", 2, 1), ("dream", 0, 2)]
)
def test_each_order_has_its_own_favourite(name: str, first: int, last: int) -> None:
    assert places(decide(name, scene(SHOWN)).write_BL) == [[first]]
    assert places(decide(name, scene(SHOWN, quota=2)).write_BL) == [sorted({0, 1, 2} - {last})]
    if name != "dream":
        assert places(decide("dream", scene(SHOWN), score=name).write_BL) == [[first]]


@pytest.mark.parametrize(
    ("score", "value"), [("confidence", [0.7, 0.65, 0.6]), ("margin", [0.6, 0.615, 0.2]), ("entropy", None)]
)
def test_positions_are_drawn_with_odds_by_score(score: str, value: list[float] | None) -> None:
    rows, temperature = 3000, 0.3
    if value is None:
        value = [sum(p * torch.tensor(p).log().item() for p in row if p) for row in (PROBABLE, AHEAD, CERTAIN)]
    odds = (torch.tensor(value) / temperature).exp().tolist()
    shown = scene(SHOWN.expand(rows, -1, -1), quota=2)
    chosen_BL = decide("dream", shown, score=score, score_temperature=temperature).write_BL
    chance = dict.fromkeys(((0, 1), (0, 2), (1, 2)), 0.0)
    for first, second, third in permutations(range(3)):
        pair = (min(first, second), max(first, second))
        chance[pair] += odds[first] / sum(odds) * odds[second] / (odds[second] + odds[third])
    counts = {pair: int(chosen_BL[:, list(pair)].all(1).sum()) for pair in chance}
    assert sum(counts.values()) == rows
    deviation = sum((counts[pair] - rows * chance[pair]) ** 2 / (rows * chance[pair]) for pair in chance)
    assert deviation < 13.82  # 0.999 quantile, 2 degrees of freedom


def test_a_temperature_near_zero_is_none() -> None:
    shown = scene(torch.randn(50, 12, 8, generator=torch.Generator().manual_seed(0)), quota=4)
    plain, cold = decide("entropy", shown), decide("entropy", shown, score_temperature=1e-6)
    assert torch.equal(plain.write_BL, cold.write_BL)


def test_the_tokens_are_those_of_dream(shared: Path) -> None:
    model = load_model(shared / "golden/dream")
    scores = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}
    entries = json.loads((shared / "golden/dream/dream_sampler.json").read_text())
    compared = 0
    for entry in entries:
        settings = entry["settings"]
        if "diffusion_generate" not in entry["sampler"] or (settings["alg"], settings["steps"]) == ("maskgit_plus", 32):
            continue  # in that run the reference proposes the mask token
        options = GenerationOptions.of(
            strategy="dream",
            score=scores[settings["alg"]],
            steps=settings["steps"],
            max_new_tokens=settings["max_new_tokens"],
            block_size=None,
            early_stop=False,
        )
        done = generate(model, entry["inputs"], options=options, mask_token_id=511)
        assert [row.token_ids for row in done] == [row[-options.max_new_tokens :] for row in entry["output"]]
        compared += 1
    assert compared == 5
