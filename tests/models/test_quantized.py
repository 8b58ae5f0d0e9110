"""Weights in 4 and 8 bits: what they compute, what can be trained on them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import unmask
from tests import tiny
from tests.models.tiny import checkpoint
from unmask.cli.main import main
from unmask.convert.merge import merge_adapter
from unmask.errors import ConfigError, ModelError, ResourceError
from unmask.models import quantized
from unmask.models.adapters import LoraSettings, attach_lora, base_held_in, load_adapter, save_adapter
from unmask.models.checkpoints import load_model
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES
from unmask.training.arguments import Settings
from unmask.training.run import train

KINDS = ("4bit", "8bit")
WIDE = {"d_model": 64, "mlp_hidden_size": 128, "n_heads": 4, "n_kv_heads": 2}
HELLO = torch.randint(2, 260, (2, 12), generator=torch.Generator().manual_seed(0))
# the 16 values of NF4, from the table in the appendix of arXiv 2305.14314
NF4 = (
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334]
    + [-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224]
    + [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
)


@pytest.fixture(autouse=True, scope="module")
def needs_bitsandbytes() -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (the extra `quant`)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("wide") / "model", **WIDE)


def weights(model: DiffusionModel) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def nearest_nf4(weight: torch.Tensor) -> torch.Tensor:
    """By brute force: each block of 64 is scaled by its largest value, each member is the nearest of the 16."""
    blocks = weight.flatten().view(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    table = torch.tensor(NF4)
    return (table[((blocks / scale)[..., None] - table).abs().argmin(-1)] * scale).view_as(weight)


def test_four_bits_are_the_papers() -> None:
    weight = torch.randn(128, 64, generator=torch.Generator().manual_seed(1))
    held = quantized.as_held(weight, "4bit")
    # the scales too are quantised, to 8 bits
    torch.testing.assert_close(held, nearest_nf4(weight), atol=0.02, rtol=0.01)


def test_eight_bits_are_whole_numbers_of_each_rows_largest() -> None:
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    scale = weight.abs().amax(1, keepdim=True) / 127
    steps = quantized.as_held(weight, "8bit") / scale
    torch.testing.assert_close(steps, steps.round(), atol=0.05, rtol=0)
    assert (steps - weight / scale).abs().max() < 0.55 and steps.abs().max() > 126.9


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_model_computes_what_its_rounded_weights_say(kind: Any, folder: Path) -> None:
    model, full = load_model(folder, quantization=kind), load_model(folder)
    rounded = load_model(folder)
    for path, layer in rounded.trunk.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.copy_(quantized.as_held(layer.weight, kind))
            assert not weights(model)[f"trunk.{path}.weight"].is_floating_point()
    assert torch.equal(model.head.weight, full.head.weight)
    assert torch.equal(model.trunk.embed.weight, full.trunk.embed.weight)
    wanted = rounded(HELLO).logits
    # with 8 bits, what comes in is rounded too
    allowed = 1e-5 if kind == "4bit" else 0.03 * float(wanted.abs().max())
    torch.testing.assert_close(model(HELLO).logits, wanted, atol=allowed, rtol=0)
    away = (wanted - full(HELLO).logits).abs().max()
    assert away > (0.005 if kind == "4bit" else 1e-4), "rounding changes something"
    assert model.num_parameters() == full.num_parameters()


def test_it_takes_less_memory(folder: Path) -> None:
    full, held = load_model(folder), load_model(folder, quantization="4bit")
    sizes = [sum(p.nbytes for name, p in weights(m).items() if "proj" in name) for m in (full, held)]
    assert sizes[1] == sizes[0] / 8


@pytest.mark.parametrize("kind", KINDS)
def test_writing_with_it(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = unmask.load(folder, quantization=kind, device="cpu")
    assert lm.generate("red", max_new_tokens=4, steps=4)[0].stats.emitted > 0
    assert main(["generate", "red", "--model", str(folder), f"--load_in_{kind}", "--max_new_tokens", "4"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("4bit", {}),
        ("8bit", {}),
        ("4bit", {"use_dora": True}),
        ("8bit", {"use_rslora": True, "modules_to_save": "head"}),
    ],
)
def test_an_adapter_learns_on_top_and_the_base_stays(kind: Any, settings: dict, folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, quantization=kind)
    before = {name: value.clone() for name, value in weights(model).items()}
    attach_lora(model, LoraSettings(r=4, lora_dropout=0.0, **settings))
    model.eval()(HELLO)  # a look at it between updates must not cost the gradients
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(model.train()(HELLO).logits.flatten(0, 1), HELLO.flatten())
        loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2
    for name, value in weights(model).items():
        if ".base_layer." in name:
            assert torch.equal(value, before[name.replace(".base_layer", "")]), name
    save_adapter(model.eval(), tmp_path)
    again = load_model(folder, quantization=kind)
    load_adapter(again, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(HELLO).logits, model(HELLO).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("base", "quantization"), [("bfloat16", None), ("bfloat16", "4bit"), ("float16", "8bit")])
def test_what_is_learned_is_held_in_float32(base: Any, quantization: Any, folder: Path) -> None:
    model = load_model(folder, dtype=base, quantization=quantization)
    dora = quantization != "8bit"
    attach_lora(model, LoraSettings(r=2, modules_to_save="head,wte", target_modules="q_proj,attn_out", use_dora=dora))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model(HELLO).logits.isfinite().all()


def test_gradients_are_those_of_the_rounded_weights(folder: Path) -> None:
    """An adapter over 4 bits and one over the same weights written out learn the same."""
    rounded, held = load_model(folder), load_model(folder, quantization="4bit")
    with torch.no_grad():
        for layer in rounded.trunk.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.copy_(quantized.as_held(layer.weight, "4bit"))
    gradients = []
    for model in (rounded, held):
        torch.manual_seed(0)
        attach_lora(model, LoraSettings(r=2, lora_dropout=0.0))
        model(HELLO).logits.square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if "lora_B" in name})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-3)
        assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_quantised_weights(kind: str, folder: Path, settings: Callable[..., Settings], tmp_path: Path) -> None:
    how = {"model_name_or_path": str(folder), "lora": True, "r": 4, f"load_in_{kind}": True, "max_steps": 6}
    done = train(settings(**how), verb="sft")
    assert done.history[-2]["loss"] < done.history[0]["loss"]
    assert base_held_in(done.folder) == (kind, torch.float32)
    lm = unmask.load(done.folder, quantization=kind, device="cpu")
    assert lm.generate("red", max_new_tokens=4, steps=2)

    merged = merge_adapter(done.folder, tmp_path / "merged")
    assert merged.held_in == kind
    with torch.no_grad():
        wanted = lm.model(HELLO).logits
        got = load_model(tmp_path / "merged")(HELLO).logits
        torch.testing.assert_close(got, wanted, atol=1e-4 if kind == "4bit" else 0.05, rtol=0)
    more = settings(**{**how, "output_dir": str(tmp_path / "on"), "adapter": str(done.folder), "lora": False})
    assert train(more, verb="sft").history[0]["loss"] < done.history[0]["loss"]


def test_merging_into_the_full_weights_is_another_thing(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, quantization="4bit")
    attach_lora(model, LoraSettings(r=2, target_modules="q_proj"))
    save_adapter(model, tmp_path / "adapter")
    assert main(["merge", "--lora_path", str(tmp_path / "adapter"), "--merge_path", str(tmp_path / "a")]) == 0
    stored = merge_adapter(tmp_path / "adapter", tmp_path / "b", base=folder, base_as_stored=True)
    assert stored.held_in is None
    base, rounded, full = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "a", tmp_path / "b"))
    name = "model.transformer.blocks.0.up_proj.weight"  # no adapter there
    assert torch.equal(full[name], base[name])
    assert torch.equal(rounded[name], quantized.as_held(base[name], "4bit"))
    assert all(torch.equal(rounded[key], base[key]) for key in base if "norm" in key or "wte" in key)


# what is refused


def test_rows_that_do_not_fit_the_blocks(tmp_path: Path) -> None:
    narrow = tiny.write_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="q_proj takes 32 values, and 4 bits need a multiple of 64. Use 8 bits"):
        load_model(narrow, quantization="4bit")
    assert load_model(narrow, quantization="8bit")(HELLO).logits.isfinite().all()


def test_experts_stay_in_full_so_a_sparse_model_is_refused(tmp_path: Path) -> None:
    sparse = checkpoint(tmp_path, FAMILIES.get("llada_moe"))
    with pytest.raises(ConfigError, match="experts of a llada_moe model, nearly all of its weights, cannot be held"):
        load_model(sparse, quantization="8bit")


def test_nothing_to_quantise(folder: Path) -> None:
    with pytest.raises(ConfigError, match="quantization 4bit needs trained weights"):
        load_model(folder, quantization="4bit", from_scratch=True)


def test_a_quantised_model_is_not_saved(folder: Path, tmp_path: Path) -> None:
    lm = unmask.load(folder, quantization="4bit", device="cpu")
    with pytest.raises(ModelError, match="held in 4 bits, which no official code reads.*Save the model that it was"):
        lm.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_both_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "x", "--model", str(folder), "--load_in_4bit", "--load_in_8bit"]) == 2
    assert "load_in_4bit and load_in_8bit exclude each other" in capsys.readouterr().err


def test_without_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r'need bitsandbytes. Install it: pip install "unmask\[quant\]"'):
        load_model(folder, quantization="4bit")


def test_dora_on_eight_bits(folder: Path) -> None:
    with pytest.raises(ConfigError, match="use_dora does not work on 8-bit weights. Hold the base in 4 bits"):
        attach_lora(load_model(folder, quantization="8bit"), LoraSettings(use_dora=True))
