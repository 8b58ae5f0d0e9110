"""A merged checkpoint computes what base and adapter did, holds everything that a checkpoint holds, or is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from unmask.convert.merge import merge_adapter
from unmask.errors import ConfigError, ModelError
from unmask.lm import load
from unmask.models.adapters import LoraSettings, attach_lora, save_adapter
from unmask.models.checkpoints import load_model, save_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("merge") / "base")


def adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """An adapter with all its weights moved away from where they begin."""
    model = load_model(base)
    torch.manual_seed(0)
    attach_lora(model, LoraSettings(**{"r": 3, **settings}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_adapter(model, folder)
    return folder


def logits(folder: Path, **options: Any) -> torch.Tensor:
    lm = load(folder, device="cpu", **options)
    tokens = torch.randint(6, 260, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return lm.model(tokens).logits


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True},
        {"use_dora": True, "use_rslora": True, "target_modules": "q_proj,ff_out"},
        {"target_modules": ["wte", "q_proj"]},
        {"target_modules": "head"},
        {"target_modules": "q_proj", "modules_to_save": ["wte", "head"]},
    ],
)
def test_merged_equals_unmerged(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    source = adapter(base, tmp_path / "adapter", **settings)
    merged = merge_adapter(source, tmp_path / "merged")
    together, before = logits(source), logits(base)
    torch.testing.assert_close(logits(tmp_path / "merged"), together, atol=1e-4, rtol=0)
    assert (together - before).abs().max() > 0.1
    old, new = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "merged"))
    assert set(old) == set(new) and merged.tensors == len(new)
    assert merged.changed == sum(not torch.equal(old[name], new[name]) for name in old)


def test_scaling_is_the_papers(base: Path, tmp_path: Path) -> None:
    """W + B A alpha / r, and for rsLoRA alpha / sqrt(r)."""
    for kind, scale in (({}, 8 / 4), ({"use_rslora": True}, 8 / 2)):
        source = adapter(base, tmp_path / f"a{scale}", r=4, lora_alpha=8, target_modules="q_proj", **kind)
        merge_adapter(source, tmp_path / f"m{scale}")
        parts = load_file(source / "adapter_model.safetensors")
        name = "model.transformer.blocks.0.q_proj"
        low, high = (parts[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        old, new = (
            load_file(folder / "model.safetensors")[f"{name}.weight"] for folder in (base, tmp_path / f"m{scale}")
        )
        torch.testing.assert_close(new - old, scale * high @ low, atol=1e-6, rtol=1e-5)


def test_trained_biases_are_merged(tmp_path: Path) -> None:
    base = tiny.write_checkpoint(tmp_path / "base", include_qkv_bias=True)
    source = adapter(base, tmp_path / "adapter", target_modules="q_proj", bias="all")
    merge_adapter(source, tmp_path / "merged")
    torch.testing.assert_close(logits(tmp_path / "merged"), logits(source), atol=1e-4, rtol=0)


def test_a_sharded_bfloat16_base_keeps_its_types(base: Path, tmp_path: Path) -> None:
    save_model(load_model(base, dtype="bfloat16"), tmp_path / "half", max_shard_size="40KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "half" / name).write_bytes((base / name).read_bytes())
    (tmp_path / "half/generation_config.json").write_text("{}")
    assert len(list((tmp_path / "half").glob("*.safetensors"))) > 1
    source = adapter(base, tmp_path / "adapter")
    merged = merge_adapter(source, tmp_path / "merged", base=tmp_path / "half")
    assert (
        merged.dtype == "bfloat16" and json.loads((tmp_path / "merged/config.json").read_text())["dtype"] == "bfloat16"
    )
    assert {tensor.dtype for tensor in load_file(tmp_path / "merged/model.safetensors").values()} == {torch.bfloat16}
    assert {"README.md", "generation_config.json", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "merged").iterdir()
    }
    exact = merge_adapter(source, tmp_path / "exact", base=tmp_path / "half", dtype="float32")
    assert exact.dtype == "float32"
    # bfloat16 rounds the sum once, to 8 bits
    rounded, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "exact"))
    for name, tensor in whole.items():
        assert torch.equal(rounded[name], tensor.bfloat16())


def test_mistakes_leave_nothing(base: Path, tmp_path: Path) -> None:
    source = adapter(base, tmp_path / "adapter")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not empty"):
        merge_adapter(source, tmp_path / "full")
    with pytest.raises(ConfigError, match='Did you mean "bfloat16"'):
        merge_adapter(source, tmp_path / "merged", dtype="bfloat")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="is no adapter"):
        merge_adapter(base, tmp_path / "merged")
    other = tiny.write_checkpoint(tmp_path / "other", n_layers=1)
    with pytest.raises(ModelError, match="another base"):
        merge_adapter(source, tmp_path / "merged", base=other)
    weights = load_file(source / "adapter_model.safetensors")
    name = next(name for name in weights if name.endswith("lora_B.weight"))
    save_file({**weights, name: weights[name] * float("nan")}, source / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="not finite"):
        merge_adapter(source, tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "full", "other"]


def test_a_base_that_cannot_be_found(base: Path, tmp_path: Path) -> None:
    source = adapter(base, tmp_path / "adapter")
    config = json.loads((source / "adapter_config.json").read_text())
    for named, said in ((None, "names no base"), (str(tmp_path / "gone"), "names a base that is not there")):
        (source / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": named}))
        with pytest.raises(ModelError, match=said):
            merge_adapter(source, tmp_path / "merged")
    (tmp_path / "merged").mkdir()
    assert merge_adapter(source, tmp_path / "merged", base=base).changed == 14


def test_half_of_a_tied_weight_is_refused(tmp_path: Path) -> None:
    base = tiny.write_checkpoint(tmp_path / "base", weight_tying=True)
    source = adapter(base, tmp_path / "adapter", target_modules=["wte"])
    with pytest.raises(ModelError, match="one weight in this base"):
        merge_adapter(source, tmp_path / "merged")
    source = adapter(base, tmp_path / "other", target_modules=["q_proj"])
    merge_adapter(source, tmp_path / "merged")
    torch.testing.assert_close(logits(tmp_path / "merged"), logits(source), atol=1e-4, rtol=0)
