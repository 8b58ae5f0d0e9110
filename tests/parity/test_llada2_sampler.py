"""Tokens equal those of LLaDA2.0's and LLaDA2.1's samplers: dLLM's, step by step, and the model's own `generate`.

They write whole blocks, the last one beyond what was asked for; here, as many are asked for. All but every eighth
entry are decoded with the block cache.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.parity.following import proposes_masks
from tests.parity.test_llada_sampler import MASK, assert_same_steps
from unmask.generation.loop import generate, stream
from unmask.generation.options import GenerationOptions
from unmask.models.checkpoints import load_model
from unmask.models.shell import DiffusionModel

GOLDEN = Path(os.environ.get("UNMASK_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "golden"
KINDS = ("llada2_moe", "llada21_moe")
# an edit by the mask token, which the reference may propose: a token becomes a mask again there
MASKED = {("llada21_moe", 10), ("llada21_moe", 11)}


@cache
def golden(kind: str) -> list[dict[str, Any]]:
    file = GOLDEN / kind / "sampler.json"
    return json.loads(file.read_text()) if file.is_file() else []


@cache
def model_of(kind: str) -> DiffusionModel:
    return load_model(GOLDEN / kind)


def entries(masked: bool = False) -> list[Any]:
    found = [(kind, number) for kind in KINDS for number in range(len(golden(kind)))]
    return [pytest.param(*one, id=f"{one[0]}-{one[1]}") for one in found if (one in MASKED) == masked]


def options_of(kind: str, entry: dict[str, Any], cache_name: str) -> GenerationOptions:
    settings, prompt = entry["settings"], len(entry["inputs"][0])
    block_size = settings.get("block_size", settings.get("block_length"))
    asked = settings.get("max_new_tokens", settings.get("gen_length"))
    ours = {"strategy": "llada2", "steps_per_block": settings.get("steps_per_block", settings.get("steps"))}
    if kind == "llada21_moe":
        ours = {"strategy": "edit", "edit_threshold": settings["editing_threshold"]}
        ours["max_post_steps"] = settings["max_post_steps"]
        assert settings["num_to_transfer"] == 1
    return GenerationOptions.of(
        **ours,
        max_new_tokens=-(-(prompt + asked) // block_size) * block_size - prompt,
        block_size=block_size,
        threshold=settings["threshold"],
        attention="block_causal",
        early_stop=False,
        cache=cache_name,
    )


@pytest.mark.parametrize(("kind", "number"), entries())
def test_tokens(kind: str, number: int, shared: Path) -> None:
    entry = golden(kind)[number]
    options = options_of(kind, entry, "none" if number % 8 == 0 else "block")
    if entry["sampler"] != "model.generate":
        run = stream(model_of(kind), entry["inputs"], options=options, mask_token_id=MASK)
        assert_same_steps(run, entry)
        return
    done = generate(model_of(kind), entry["inputs"], options=options, mask_token_id=MASK)
    assert done[0].token_ids[: len(entry["output"][0])] == entry["output"][0]


def test_when_the_reference_edits_a_token_into_a_mask(shared: Path) -> None:
    (kind, number), (_, again) = sorted(MASKED)
    entry, other = golden(kind)[number], golden(kind)[again]
    options = options_of(kind, entry, "block")
    assert options_of(kind, other, "block") == options and other["inputs"] == entry["inputs"]
    model = proposes_masks(model_of(kind), MASK)
    (state,) = entry["histories"][0]
    for commit, (after,) in zip(
        stream(model, entry["inputs"], options=options, mask_token_id=MASK), entry["histories"][1:], strict=False
    ):
        for place, token in zip(commit.positions, commit.token_ids, strict=True):
            state[place] = min(token, MASK)
        assert state == after
        if MASK + 1 in commit.token_ids:
            assert commit.step == 43
            break
    assert MASK not in generate(model_of(kind), entry["inputs"], options=options, mask_token_id=MASK)[0].token_ids


def test_every_entry_is_there(shared: Path) -> None:
    assert [len(golden(kind)) for kind in KINDS] == [32, 32] and len(entries()) == 62 and len(entries(True)) == 2
