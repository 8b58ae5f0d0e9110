"""Compiled layers compute what the others do, for any rows, out of a handful of graphs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from tests import tiny
from tests.models.tiny import build, tokens
from unmask.diffusion.blocks import block_ids, documents, padded, two_stream
from unmask.errors import ConfigError, ResourceError
from unmask.lm import DiffusionLM, load
from unmask.models import compiling
from unmask.models.adapters import LoraSettings, attach_lora
from unmask.models.compiling import compile_layers
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES
from unmask.training.arguments import Settings
from unmask.training.run import train
from unmask.types import AttentionSpec

# traces and counts graphs as inductor does, in a tenth of the time and without a compiler of C++
TRACED = "aot_eager"
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs g++ on a CPU")


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def graphs() -> int:
    """How many graphs were made; a break in one would make more of them."""
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


def learned(model: DiffusionModel, fed: Tensor, attention: AttentionSpec | None) -> dict[str, Tensor]:
    """The loss and each weight's gradient."""
    model.zero_grad()
    at = torch.arange(0, fed.numel(), 3)
    loss = model(fed, attention=attention, logits_at=at, targets=fed.flatten()[at]).nll.mean()
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return {**found, "loss": loss.detach()}


def same(plain: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert plain.keys() == other.keys()
    for name, expected in plain.items():
        distance = (other[name] - expected).norm() / expected.norm().clamp(min=1e-12)
        assert distance < 1e-5, name


def an_epoch() -> list[tuple[Tensor, AttentionSpec | None]]:
    """Rows of every kind and many lengths."""
    batches: list[tuple[Tensor, AttentionSpec | None]] = []
    for length in (9, 17, 20, 31):
        fed = tokens(3, length)
        ids = torch.arange(length)[None].expand(3, length)
        batches += [
            (fed, None),
            (fed, padded(ids < torch.tensor([[length], [length - 2], [5]]))),
            (fed, documents(ids // 7)),
            (torch.cat([fed, fed], 1), two_stream(block_ids(ids, 4))),
        ]
    return batches


LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("dream", "a2d-qwen3", "llada_moe", "llada2")]


@pytest.mark.parametrize("family", ["llada", *LONG])
def test_an_epoch_of_many_lengths_is_learned_alike_out_of_a_handful_of_graphs(tmp_path: Path, family: str):
    model = build(tmp_path, FAMILIES.get(family)).train()
    expected = [learned(model, *batch) for batch in an_epoch()]
    compile_layers(model, backend=TRACED)
    for plain, batch in zip(expected, an_epoch(), strict=True):
        same(plain, learned(model, *batch))
    kinds = len({type(layer.mlp) for layer in model.trunk.layers})
    # of a kind of layer: before attention, after it, and in the last layer after it at some places; and once more where
    # a size first equals another by chance
    assert 2 <= graphs() <= 5 * kinds


@pytest.mark.long
def test_an_adapter_learns_alike(tmp_path: Path):
    model = build(tmp_path, FAMILIES.get("llada")).train()
    attach_lora(model, LoraSettings(r=4, lora_dropout=0.0))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    plain = learned(model, tokens(2, 20), None)
    compile_layers(model, backend=TRACED)
    same(plain, learned(model, tokens(2, 20), None))
    # the first layer's input is nothing that is learned
    assert graphs() <= 5 and any("lora_A" in name for name in plain)


@pytest.mark.parametrize("strategy", [pytest.param("whole_layer", marks=pytest.mark.long), "fine_grained"])
def test_activations_may_be_computed_again(tmp_path: Path, strategy: str):
    model = build(tmp_path, FAMILIES.get("llada")).train()
    plain = learned(model, tokens(2, 20), None)
    compile_layers(model, backend=TRACED)
    model.gradient_checkpointing_enable(strategy=strategy)
    same(plain, learned(model, tokens(2, 20), None))
    assert graphs() <= 5


PROMPTS = [[40, 41, 42], [50, 51, 52, 53, 54, 55, 56], [60] * 12]
WAYS: tuple[dict[str, Any], ...] = (
    {"cache": "none"},
    {"cache": "dual", "cache_delay": 1, "cache_horizon": 2},
    {"cache": "interval", "guidance_scale": 0.5},
    {"cache": "block", "attention": "block_causal"},
    {"cache": "none", "speculate": 1},
)


def written(lm: DiffusionLM, **way: Any) -> list[list[int]]:
    settings = {"max_new_tokens": 12, "block_size": 6, "steps": 6, **way}
    return [out.token_ids for out in lm.generate(PROMPTS, **settings)]


def test_all_ways_of_decoding_write_the_same_out_of_a_handful_of_graphs(tmp_path: Path):
    lm = load(tiny.write_checkpoint(tmp_path / "model"), device="cpu")
    expected = [written(lm, **way) for way in WAYS]
    compile_layers(lm.model, backend=TRACED)
    made: list[int] = []
    for way, plain in zip(WAYS, expected, strict=True):
        assert written(lm, **way) == plain
        made.append(graphs())
    # before attention: rows at columns in common or of their own, one row or several; after it: all places or some;
    # and once more where a size first equals another by chance
    assert made[0] <= 5 and made[-1] <= 10
    written(lm, max_new_tokens=31, block_size=5, cache="dual")
    assert graphs() <= made[-1] + 1


@needs_compiler
def test_inductor_writes_and_learns_the_same(tmp_path: Path):
    folder = tiny.write_checkpoint(tmp_path / "model")
    plain, compiled = load(folder, device="cpu"), load(folder, device="cpu", compile=True)
    assert written(compiled, cache="dual") == written(plain, cache="dual")
    batch = tokens(3, 21), None
    same(learned(plain.model.train(), *batch), learned(compiled.model.train(), *batch))
    assert graphs() > 0


def test_a_run_that_compiles_learns_as_one_that_does_not(settings: Callable[..., Settings], tmp_path: Path):
    plain = train(settings(output_dir=str(tmp_path / "plain")), verb="sft")
    assert counters["stats"]["unique_graphs"] == 0
    asked = settings(output_dir=str(tmp_path / "other"), torch_compile=True, torch_compile_backend=TRACED)
    compiled = train(asked, verb="sft")
    assert 2 <= graphs() <= 6
    for before, after in zip(plain.history, compiled.history, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-5)


def test_what_cannot_be_compiled_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = build(tmp_path, FAMILIES.get("llada"))
    with pytest.raises(ConfigError, match=r'no backend "inductr".*Did you mean "inductor"'):
        compile_layers(model, backend="inductr")
    with pytest.raises(ConfigError, match=r'no mode "max-autotun".*Did you mean "max-autotune"'):
        compile_layers(model, mode="max-autotun")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ResourceError, match="needs a compiler of C"):
        compile_layers(model)
    monkeypatch.setattr(compiling, "compiler", lambda: "g++")
    model.is_loaded_in_4bit = True
    with pytest.raises(ConfigError, match="held in 4bit cannot be compiled"):
        compile_layers(model)


def test_loading_refuses_before_it_reads_weights():
    with pytest.raises(ConfigError, match="held in 8bit cannot be compiled"):
        load("no/such/model", device="cpu", quantization="8bit", compile=True)


def test_single_operations_and_graphs_exclude_each_other(settings: Callable[..., Settings], tmp_path: Path):
    asked = settings(
        output_dir=str(tmp_path / "run"),
        torch_compile_mode="default",
        gradient_checkpointing=True,
        checkpointing_strategy="selective",
    )
    with pytest.raises(ConfigError, match="which torch_compile puts together"):
        train(asked, verb="sft")
    assert not (tmp_path / "run").exists()
