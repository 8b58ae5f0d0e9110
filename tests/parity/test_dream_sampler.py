"""Tokens equal those of Dream's samplers on the same weights, step by step where histories were kept.

dLLM's `DreamSampler`, its infilling and the model's own `diffusion_generate`. They know no blocks, and propose the mask
token like any other; we never do. Every entry is compared in one of these ways, and the counts are tested:

* as it is, with our own strategy;
* `TIED`: the reference's scores are equal in float32 (with top-p, often one token is left, of probability 1), and
  it took another position than the first: we follow its choices and test that they are among the best;
* `MASKED`: likewise, with the mask token in the distribution: it takes a share of the probability;
* `STUCK`: the mask token is what the reference writes; what we write instead is not in the file.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.parity.following import Follows, proposes_masks
from tests.parity.test_llada_sampler import MASK, assert_same_steps
from unmask.generation.loop import generate, stream, stream_infill
from unmask.generation.options import GenerationOptions
from unmask.models.checkpoints import load_model
from unmask.models.shell import DiffusionModel
from unmask.registry import STRATEGIES

GOLDEN = Path(os.environ.get("UNMASK_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "golden" / "dream"
SCORES = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}
TIED = {1, 3, 5, 7, 9, 11, 13, 17, 19, 21, 23, 25, 27, 28, 29, 31, 33, 37, 39, 41, 43, 45, 47}
MASKED = {15, 24, 26, 32, 35, 42}
STUCK = {0, 52}


@cache
def golden() -> list[dict[str, Any]]:
    file = GOLDEN / "dream_sampler.json"
    return json.loads(file.read_text()) if file.is_file() else []


def entries(kind: str, numbers: set[int] | None = None) -> list[Any]:
    """Entries of a sampler, without those that are compared otherwise, or only these."""
    ours = set(range(len(golden()))) - TIED - MASKED - STUCK if numbers is None else numbers
    chosen = [number for number in sorted(ours) if number < len(golden()) and kind in golden()[number]["sampler"]]
    return [pytest.param(golden()[number], id=str(number)) for number in chosen]


@cache
def loaded(shift: bool) -> DiffusionModel:
    model = load_model(GOLDEN)
    model.family = replace(model.family, shift=shift)
    return model


def model_of(entry: dict[str, Any]) -> DiffusionModel:
    """The checkpoint, whose logits are shifted; without the shift where the reference was asked to leave it out."""
    return loaded(entry["settings"].get("right_shift_logits", True))


def options_of(settings: dict[str, Any], **more: Any) -> GenerationOptions:
    words = {"cfg_scale": "guidance_scale"}
    same = ("max_new_tokens", "steps", "top_p", "top_k")
    ours = {words.get(name, name): value for name, value in settings.items() if name in (*words, *same)}
    given = {"strategy": "dream", "score": SCORES[settings["alg"]], "block_size": None, "cache": "none"}
    return GenerationOptions.of(**{**given, "reveal": "rounded", "early_stop": False, **ours, **more})


def left_aligned(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry without the padding before its rows, which stand at the right there."""
    ends = [len(row) + entry["settings"].get("max_new_tokens", 0) for row in entry["inputs"]]
    cut = lambda rows: [row[-end:] for row, end in zip(rows, ends, strict=True)]  # noqa: E731
    return {**entry, "output": cut(entry["output"]), "histories": [cut(state) for state in entry["histories"]]}


@pytest.mark.parametrize("entry", entries("DreamSampler"))
def test_dllm(entry: dict[str, Any], shared: Path) -> None:
    start = stream_infill if "infill" in entry["sampler"] else stream
    run = start(model_of(entry), entry["inputs"], options=options_of(entry["settings"]), mask_token_id=MASK)
    assert_same_steps(run, left_aligned(entry))


def follow(entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the strategy "follows" go where the reference went."""
    states = zip(*entry["histories"], strict=True)
    lengths = [len(row) for row in entry["inputs"]]
    answers = [[state[length:] for state in row] for length, row in zip(lengths, states, strict=True)]
    monkeypatch.setattr(Follows, "answers", answers)
    monkeypatch.setitem(STRATEGIES.table, "follows", "tests.parity.following:Follows")


@pytest.mark.parametrize("entry", entries("DreamSampler", TIED))
def test_dllm_up_to_the_order_of_what_is_equally_sure(
    entry: dict[str, Any], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = left_aligned(entry)
    follow(entry, monkeypatch)
    options = options_of(entry["settings"], strategy="follows")
    assert_same_steps(stream(model_of(entry), entry["inputs"], options=options, mask_token_id=MASK), entry)


@pytest.mark.parametrize("entry", entries("DreamSampler", MASKED))
def test_dllm_with_a_share_for_the_mask_token(
    entry: dict[str, Any], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = left_aligned(entry)
    follow(entry, monkeypatch)
    options, model = options_of(entry["settings"], strategy="follows"), proposes_masks(model_of(entry), MASK)
    assert_same_steps(stream(model, entry["inputs"], options=options, mask_token_id=MASK), entry)


@pytest.mark.parametrize("entry", entries("diffusion_generate"))
def test_the_model_s_own_generate(entry: dict[str, Any], shared: Path) -> None:
    options = options_of(entry["settings"], reveal="truncated")
    done = generate(model_of(entry), entry["inputs"], options=options, mask_token_id=MASK)
    assert [row.token_ids for row in done] == [row[-options.max_new_tokens :] for row in entry["output"]]


@pytest.mark.parametrize("entry", entries("", STUCK))
def test_a_mask_that_the_reference_writes_is_a_token_here(entry: dict[str, Any], shared: Path) -> None:
    options = options_of(entry["settings"], reveal="rounded" if "histories" in entry else "truncated")
    if "histories" in entry:
        before, after = entry["histories"][10:12]
        assert before == after == entry["histories"][-1] and MASK in after[0]
    named = generate(proposes_masks(model_of(entry), MASK), entry["inputs"], options=options, mask_token_id=MASK)
    assert MASK + 1 in named[0].token_ids
    done = generate(model_of(entry), entry["inputs"], options=options, mask_token_id=MASK)
    assert MASK not in done[0].token_ids and len(done[0].token_ids) == options.max_new_tokens


def test_every_entry_is_compared(shared: Path) -> None:
    kinds = [(entries("DreamSampler.sample"), 18), (entries("DreamSampler.infill"), 4), (entries("diffusion"), 5)]
    kinds += [(entries("", TIED), 23), (entries("", MASKED), 6), (entries("", STUCK), 2)]
    assert [len(found) for found, _ in kinds] == [count for _, count in kinds]
    assert sum(count for _, count in kinds) == len(golden())
