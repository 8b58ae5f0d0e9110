"""Adapters of experts and routers against PEFT over modules that are apart, as the official code has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.models.tiny import checkpoint, tokens
from tests.tiny import write_tokenizer
from unmask.convert.merge import merge_adapter
from unmask.errors import ConfigError, ModelError
from unmask.models.adapters import LoraSettings, attach_lora, load_adapter, save_adapter
from unmask.models.checkpoints import load_model, save_model
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES

WEIGHTS, MODEL = "adapter_model.safetensors", "model.safetensors"
SPARSE = ["llada_moe", "llada2"]
EXPERT = "base_model.model.model.layers.1.mlp.experts"
# targets in our words, and what PEFT calls them over the official code
TARGETS: dict[str, tuple[str, Any]] = {
    "all that is linear, and experts": ("all-linear, experts", "all-linear"),
    "one layer of the experts": ("down_proj", ["down_proj"]),
    "two, and attention": ("up_proj,gate_proj,o_proj", ["up_proj", "gate_proj", "o_proj", "dense"]),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The first weights of adapters are drawn from the global generator."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=SPARSE)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / request.param
    ids = {"vocab_size": 264, "mask_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    checkpoint(folder, FAMILIES.get(request.param), **ids)
    write_tokenizer(folder)
    return folder


def official(folder: Path) -> nn.Module:
    """Modules under the names of the official code, an expert a layer like any other: a forward pass they lack."""
    root = nn.Module()
    for name, value in load_file(folder / MODEL).items():
        path, _, leaf = name.rpartition(".")
        module = root
        *parents, last = path.split(".")
        for part in parents:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        is_linear = value.dim() == 2 and not last.endswith("embeddings") and last not in ("embed_tokens", "gate")
        made = nn.Linear(*value.shape[::-1], bias=False) if is_linear else getattr(module, last, nn.Module())
        made.register_parameter(leaf, nn.Parameter(value))
        module.add_module(last, made)
    return root


def moved(model: Any) -> Any:
    """With every trainable weight changed, so that none can be lost unseen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


def adapted(base: Path, **settings: Any) -> DiffusionModel:
    model = load_model(base)
    attach_lora(model, LoraSettings(**{"r": 2, "target_modules": "all-linear,experts", **settings}))
    return moved(model).eval()


@torch.no_grad()
def same(ours: nn.Module, theirs: nn.Module, base: Path, folder: Path) -> None:
    """The adapted model computes what the official weights do once PEFT has folded its adapter into them."""
    folded = theirs.merge_and_unload().state_dict()  # type: ignore[reportCallIssue]
    folder.mkdir()
    (folder / "config.json").write_text((base / "config.json").read_text())
    save_file({name: value.contiguous() for name, value in folded.items()}, folder / MODEL)
    logits = ours(tokens()).logits
    torch.testing.assert_close(logits, load_model(folder)(tokens()).logits, atol=1e-4, rtol=1e-4)
    assert (load_model(base)(tokens()).logits - logits).abs().max() > 1e-2


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("case", TARGETS)
def test_ours_opens_there(base: Path, case: str, rslora: bool, tmp_path: Path) -> None:
    model = adapted(base, target_modules=TARGETS[case][0], use_rslora=rslora, lora_alpha=3)
    save_adapter(model, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(official(base), tmp_path / "adapter")  # type: ignore[reportArgumentType]
    same(model, theirs, base, tmp_path / "folded")


@pytest.mark.parametrize("case", [*TARGETS, "experts 0 and 2"])
def test_theirs_opens_here(base: Path, case: str, tmp_path: Path) -> None:
    wanted = TARGETS[case][1] if case in TARGETS else r"model\.layers\.1\.mlp\.experts\.[02]\.(up|down)_proj"
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=wanted)
    theirs = moved(peft.get_peft_model(official(base), config))  # type: ignore[reportArgumentType]
    theirs.save_pretrained(tmp_path / "adapter")
    model = load_model(base)
    load_adapter(model, tmp_path / "adapter")
    same(model, theirs, base, tmp_path / "folded")


def test_experts_that_a_file_leaves_alone_stay_alone(base: Path, tmp_path: Path) -> None:
    save_adapter(adapted(base), tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    kept = {name: value for name, value in tensors.items() if not re.search(r"experts\.[3-9]", name)}
    assert len(kept) < len(tensors)
    save_file(kept, tmp_path / WEIGHTS)
    model = load_model(base)
    load_adapter(model, tmp_path, trainable=True)
    before = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(tokens(8)).logits.square().mean().backward()
    optimizer.step()
    stacks = [(name, value) for name, value in model.named_parameters() if ".experts." in name and "lora_" in name]
    assert len(stacks) == 6
    for name, value in stacks:
        assert not value[3:].any() and not torch.equal(value[:3], before[name][:3]), name


def test_the_router_takes_an_adapter_too(base: Path, tmp_path: Path) -> None:
    """Its choice and its weights are those of the sum of both weights."""
    model = adapted(base, target_modules="router,q_proj" if base.name == "llada_moe" else "gate")
    save_adapter(model, tmp_path / "adapter")
    names = load_file(tmp_path / "adapter" / WEIGHTS)
    assert "base_model.model.model.layers.1.mlp.gate.lora_A.weight" in names
    merge_adapter(tmp_path / "adapter", tmp_path / "merged", base=base)
    x_nD = torch.randn(9, 32, generator=torch.Generator().manual_seed(0))
    routers = [each.trunk.layers[1].mlp.router for each in (model, load_model(tmp_path / "merged"), load_model(base))]
    (weight, chosen), (merged_weight, merged_chosen), (plain, _) = (router(x_nD) for router in routers)
    assert torch.equal(chosen, merged_chosen)
    torch.testing.assert_close(weight, merged_weight, atol=1e-5, rtol=1e-5)
    assert (plain - weight).abs().max() > 1e-2


@torch.no_grad()
def test_merged_equals_unmerged(base: Path, tmp_path: Path) -> None:
    model = adapted(base, use_rslora=True)
    save_adapter(model, tmp_path / "adapter")
    merged = merge_adapter(tmp_path / "adapter", tmp_path / "merged", base=base)
    logits = load_model(tmp_path / "merged")(tokens()).logits
    torch.testing.assert_close(logits, model(tokens()).logits, atol=1e-4, rtol=1e-5)
    # every expert's three matrices, and whatever else is linear
    experts = load_model(base).facts.shape.experts
    assert merged.changed == 3 * experts + sum(
        name.endswith("lora_A.default.weight") and ".experts." not in name for name, _ in model.named_parameters()
    )


@torch.no_grad()
def test_a_new_one_changes_nothing_and_a_saved_one_comes_back(base: Path, tmp_path: Path) -> None:
    model, plain = load_model(base), load_model(base)
    attach_lora(model, LoraSettings(r=3, target_modules="experts"))
    assert torch.equal(model(tokens()).logits, plain(tokens()).logits)
    inward = model.trunk.layers[1].mlp.experts.down_proj.lora_A["default"].weight
    # PEFT's rule for a linear layer: uniform, as wide as 1 / sqrt(inputs)
    assert inward.shape[1] == 3 and 0.8 < inward.abs().max() * inward.shape[2] ** 0.5 <= 1
    save_adapter(moved(model), tmp_path)
    load_adapter(plain, tmp_path)
    assert torch.equal(model(tokens()).logits, plain(tokens()).logits)
    with pytest.raises(ModelError, match="the model holds an adapter"):
        save_model(model, tmp_path / "whole")


@pytest.mark.parametrize("autocast", [False, True])
def test_it_is_learned_in_float32_on_a_base_in_bfloat16(base: Path, autocast: bool) -> None:
    model = load_model(base, dtype="bfloat16")
    attach_lora(model, LoraSettings(r=4, target_modules="experts,gate", lora_dropout=0.1))
    learned = [(name, p) for name, p in model.train().named_parameters() if p.requires_grad]
    assert {p.dtype for _, p in learned} == {torch.float32} and all("lora_" in name for name, _ in learned)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(tokens(8)).logits
    assert logits.dtype == torch.bfloat16
    logits.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for name, p in learned if "lora_B" in name)


def refused(base: Path, folder: Path, phrase: str) -> None:
    with pytest.raises(ModelError, match=phrase):
        load_adapter(load_model(base), folder)


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({f"{EXPERT}.1.up_proj.lora_B.weight": ...}, "are not of the same experts. Save the adapter again"),
        ({f"{EXPERT}.{number}.up_proj.lora_B.weight": ... for number in range(8)}, "are not of the same experts"),
        (
            {f"{EXPERT}.99.up_proj.lora_A.weight": torch.zeros(2, 32)},
            "is of expert 99, and this model has .: another base",
        ),
        ({f"{EXPERT}.1.up_proj.lora_A.weight": torch.zeros(3, 32)}, "has shapes .* for two experts"),
        ({f"{EXPERT}.1.no_proj.lora_A.weight": torch.zeros(2, 32)}, "is no layer of a llada.* model"),
        ({f"{EXPERT}.{n}.up_proj.lora_B.weight": torch.zeros(3, 2) for n in range(8)}, "not of the same|does not fit"),
    ],
)
def test_experts_that_do_not_fit_are_refused(base: Path, change: dict[str, Any], phrase: str, tmp_path: Path) -> None:
    save_adapter(adapted(base), tmp_path)
    tensors = {**load_file(tmp_path / WEIGHTS), **change}
    save_file({name: value for name, value in tensors.items() if value is not ...}, tmp_path / WEIGHTS)
    refused(base, tmp_path, phrase)


def test_dora_is_for_other_layers(base: Path) -> None:
    with pytest.raises(ConfigError, match="use_dora does not work on experts and routers.*adapt all-linear"):
        attach_lora(load_model(base), LoraSettings(target_modules="experts", use_dora=True))


def test_experts_are_not_trained_whole_beside_an_adapter(base: Path) -> None:
    with pytest.raises(ConfigError, match='modules_to_save: "experts" is no layer'):
        attach_lora(load_model(base), LoraSettings(modules_to_save="experts"))


def test_a_dense_model_has_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='target_modules: "experts" is no layer of a llada model'):
        attach_lora(load_model(checkpoint(tmp_path)), LoraSettings(target_modules="experts"))
