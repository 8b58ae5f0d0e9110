"""Tokens equal those of dLLM's `BD3LMSampler` on converted models, step by step, with the block cache and without.

It pads a prompt on the left, so that it ends where a block does, while our blocks (and dLLM's, in training) are counted
from the row's beginning. `Padded` shows the denoiser the same: the padding is a part of the prompt that nobody sees and
that has no positions. A prompt of whole blocks needs none of it. The reference feeds a finished block by itself, we
feed it with the next one: one forward a block less. Where it makes two for guidance, we make one.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.following import Follows, proposes_masks
from tests.parity.test_llada_sampler import MASK, assert_same_steps, options_of
from unmask.generation.loop import Decoding, stream
from unmask.models.checkpoints import load_model
from unmask.models.shell import DiffusionModel
from unmask.registry import STRATEGIES
from unmask.types import AttentionSpec, DenoiserOutput

GOLDEN = Path(os.environ.get("UNMASK_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "golden"
KINDS, PAD = ("a2d_llama", "a2d_qwen2", "a2d_qwen3"), 508
# the mask token has a share of the probability in the reference, and may be what it writes; we never propose it
MASKED = {("a2d_llama", number) for number in (0, 3, 18)}
MASKED |= {("a2d_qwen3", number) for number in (1, 13, 14, 15, 17, 19, 20)}
# guidance makes two positions as probable as float32 can tell, and the reference does not take the first
TIED = {("a2d_llama", 17), ("a2d_qwen2", 10), ("a2d_qwen2", 17)}


@cache
def golden(kind: str) -> list[dict[str, Any]]:
    file = GOLDEN / kind / "bd3lm_sampler.json"
    return json.loads(file.read_text()) if file.is_file() else []


@cache
def model_of(kind: str, shift: bool) -> DiffusionModel:
    model = load_model(GOLDEN / kind)
    model.family = replace(model.family, shift=shift)
    return model


class Padded:
    """A model that does not see the first columns of a row, whose positions begin behind them."""

    def __init__(self, model: DiffusionModel, padding: list[int]) -> None:
        self.model, self.padding_B = model, torch.tensor(padding)

    def new_cache(self, rows: int, capacity: int) -> Any:
        """The model's."""
        return self.model.new_cache(rows, capacity)

    def __call__(
        self, tokens_BL: Tensor, *, attention: AttentionSpec | None, cache: Any = None, logits_at: Tensor
    ) -> DenoiserOutput:
        rows, width = tokens_BL.shape
        first, keys = (0, width) if cache is None else (cache.start, cache.seen(width))
        padding_B1 = self.padding_B.repeat(rows // len(self.padding_B))[:, None]
        document_BL = -(torch.arange(keys) < padding_B1).long()
        positions_BL = (torch.arange(first, first + width) - padding_B1).clamp(min=0)
        attention = replace(attention or AttentionSpec(), document_BL=document_BL, packed=False)
        return self.model(tokens_BL, attention=attention, positions=positions_BL, cache=cache, logits_at=logits_at)


def entries(numbers: set[tuple[str, int]] | None = None) -> list[Any]:
    """Entries that equal ours as they are, or only these."""
    found = [(kind, number) for kind in KINDS for number in range(len(golden(kind)))]
    chosen = [one for one in found if (one not in MASKED | TIED if numbers is None else one in numbers)]
    return [pytest.param(*one, id=f"{one[0]}-{one[1]}") for one in chosen]


def started(
    kind: str, number: int, cache_name: str, *, with_mask: bool = False, strategy: str = "confidence"
) -> tuple[Decoding, dict[str, Any]]:
    """Our run of an entry, and the entry with the forwards that we expect and the canvas of all blocks."""
    entry = golden(kind)[number]
    settings, length = entry["settings"], len(entry["output"][0]) - entry["settings"]["max_new_tokens"]
    padding = [length - len(prompt) for prompt in entry["inputs"]]
    model = model_of(kind, settings.get("right_shift_logits", False))
    denoiser = Padded(model, padding) if any(padding) else model
    prompts = [[PAD] * count + prompt for count, prompt in zip(padding, entry["inputs"], strict=True)]
    options = options_of(
        {**settings, "use_cache": cache_name},
        reveal="rounded",
        attention="block_causal",
        steps_per_block=settings.get("steps_per_block"),
        strategy=strategy,
    )
    denoiser = proposes_masks(denoiser, MASK) if with_mask else denoiser
    run = stream(denoiser, prompts, options=options, mask_token_id=MASK)
    blocks, ends = -(-settings["max_new_tokens"] // settings["block_size"]), run.canvas.ends
    widened = [
        [row + [MASK] * (end - len(row)) for row, end in zip(state, ends, strict=True)] for state in entry["histories"]
    ]
    forwards = entry["n_forwards"] // (2 if settings.get("cfg_scale") else 1) - blocks
    return run, {**entry, "n_forwards": forwards, "histories": widened}


@pytest.mark.parametrize(("kind", "number"), entries())
def test_tokens(kind: str, number: int, shared: Path) -> None:
    assert_same_steps(*started(kind, number, "none" if number % 4 == 0 else "block"))


@pytest.mark.parametrize(("kind", "number"), entries(TIED))
def test_tokens_up_to_a_tie(kind: str, number: int, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES.table, "follows", "tests.parity.following:Follows")
    run, entry = started(kind, number, "block", strategy="follows")
    length = len(entry["output"][0]) - entry["settings"]["max_new_tokens"]
    states = zip(*entry["histories"], strict=True)
    monkeypatch.setattr(Follows, "answers", [[state[length:] for state in row] for row in states])
    assert_same_steps(run, entry)


@pytest.mark.parametrize(("kind", "number"), entries(MASKED))
def test_tokens_up_to_the_mask_token_that_the_reference_writes(
    kind: str, number: int, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRATEGIES.table, "rounded", "tests.parity.following:Rounded")
    run, entry = started(kind, number, "block", with_mask=True, strategy="rounded")
    states = [list(rows) for rows in zip(*entry["histories"], strict=True)]
    made, stuck = [0] * len(states), set()
    for commit in run:
        row, state = commit.row, states[commit.row][0]
        made[row] += 1
        for place, token in zip(commit.positions, commit.token_ids, strict=True):
            state[place] = min(token, MASK)
        if row not in stuck:
            assert state == states[row][made[row]]
        if MASK + 1 in commit.token_ids:
            stuck.add(row)
    for row, output in enumerate(entry["output"]):
        assert row in stuck or output == states[row][0]
        assert row in stuck or MASK not in output
    plain, _ = started(kind, number, "block")
    assert not any(MASK in done.token_ids for done in plain.run())


def test_every_entry_is_there(shared: Path) -> None:
    assert [len(golden(kind)) for kind in KINDS] == [21] * 3
    assert [len(entries()), len(entries(MASKED)), len(entries(TIED))] == [50, 10, 3]
