"""Autoregressive checkpoints, one token a block with the causal cache: tokens equal transformers' greedy `generate`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.models.tiny import checkpoint
from tests.stories import write_llama
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions
from unmask.generation.trace import Completion
from unmask.models.checkpoints import load_model
from unmask.models.shell import Aligned, DiffusionModel
from unmask.registry import FAMILIES

KINDS = ("llama", "qwen2", "mistral", "qwen3")
PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 8, 9], [10] * 12]
NEW = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@cache
def both(folder: Path, kind: str) -> tuple[DiffusionModel, PreTrainedModel]:
    path = checkpoint(folder / kind, FAMILIES.get(kind))
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    return load_model(path).double(), theirs


def of_transformers(model: PreTrainedModel, prompt: list[int], new: int, stops: list[int] | None = None) -> list[int]:
    """Only what is new, the stop token included where there is one."""
    config = {"do_sample": False, "max_new_tokens": new, "eos_token_id": stops, "pad_token_id": 0}
    ids = torch.tensor([prompt])
    return model.generate(ids, attention_mask=torch.ones_like(ids), **config)[0, len(prompt) :].tolist()


def ours(model: Any, prompts: list[list[int]], new: int = NEW, stops: list[int] = [], **more: Any) -> list[Completion]:  # noqa: B006
    settings = {"max_new_tokens": new, "block_size": 1, "steps_per_block": 1, "attention": "block_causal", **more}
    options = GenerationOptions.of(**settings)
    return generate(Aligned(model), prompts, options=options, mask_token_id=None, stop_token_ids=stops)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens(kind: str, folder: Path) -> None:
    model, theirs = both(folder, kind)
    done = ours(model, PROMPTS, cache="block")
    assert [row.token_ids for row in done] == [of_transformers(theirs, prompt, NEW) for prompt in PROMPTS]
    assert {row.stats.forwards.total for row in done} == {NEW}
    without = ours(model, PROMPTS, cache="none")
    assert [row.token_ids for row in without] == [row.token_ids for row in done]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_costs_its_prompt_and_one_position_a_token(kind: str, folder: Path) -> None:
    model, _ = both(folder, kind)
    for prompt in PROMPTS:
        (row,) = ours(model, [prompt], cache="auto")
        assert row.stats.positions == len(prompt) + NEW - 1


@pytest.mark.parametrize("kind", KINDS)
def test_stop_tokens(kind: str, folder: Path) -> None:
    model, theirs = both(folder, kind)
    stops = list(range(0, 60, 6))
    done = ours(model, PROMPTS, stops=stops, cache="block")
    for row, prompt in zip(done, PROMPTS, strict=True):
        wanted = of_transformers(theirs, prompt, NEW, stops)
        is_stopped = wanted[-1] in stops
        assert row.token_ids == (wanted[:-1] if is_stopped else wanted)
        assert row.finish_reason == ("stop" if is_stopped else "length")
    assert len({row.stats.forwards.total for row in done}) > 1


def test_a_real_model(shared: Path, folder: Path) -> None:
    weights = shared / "data" / "weights_stories260k"
    path = write_llama(folder / "stories", weights)
    golden = json.loads((weights / "golden_stories260k.json").read_text())
    model, theirs = load_model(path), AutoModelForCausalLM.from_pretrained(path)
    greedy = golden["greedy_ids_from_bos"]
    prompts = [greedy[:1], greedy[:20], golden["text_ids"][:33]]
    done = ours(model, prompts, 60, cache="block")
    assert [row.token_ids for row in done] == [of_transformers(theirs, prompt, 60) for prompt in prompts]
    assert done[0].token_ids[: len(greedy) - 1] == greedy[1:61]
