"""Adapters travel both ways between us and PEFT over transformers' own classes, and compute the same there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

from tests.models.tiny import checkpoint
from unmask.models.adapters import LoraSettings, attach_lora, load_adapter, save_adapter
from unmask.models.checkpoints import load_model
from unmask.registry import FAMILIES

CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}
CLASSES |= {"qwen3": "Qwen3ForCausalLM"}
IDS = torch.randint(0, 60, (2, 12), generator=torch.Generator().manual_seed(0))
# how an adapter is made, in our words and in PEFT's
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "all-linear": ({}, {"target_modules": "all-linear"}),
    "some": ({"target_modules": "q_proj,down_proj"}, {"target_modules": ["q_proj", "down_proj"]}),
    "dora": ({"use_dora": True}, {"target_modules": "all-linear", "use_dora": True}),
    "rslora": ({"use_rslora": True}, {"target_modules": "all-linear", "use_rslora": True}),
    "embedding and head beside": (
        {"target_modules": "q_proj", "modules_to_save": "embed_tokens,lm_head"},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "embedding and head adapted": (
        {"target_modules": "embed_tokens,lm_head"},
        {"target_modules": ["embed_tokens", "lm_head"]},
    ),
}


def move(model: nn.Module) -> None:
    """Change every trainable weight, so that none can be lost unseen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))


def official(kind: str, folder: Path) -> Any:
    return getattr(transformers, CLASSES[kind]).from_pretrained(folder, dtype=torch.float32).eval()


def same(ours: nn.Module, theirs: nn.Module, base: Path) -> None:
    with torch.no_grad():
        logits = ours(IDS).logits
        torch.testing.assert_close(logits, theirs(IDS).logits, atol=1e-4, rtol=1e-4)
        assert (load_model(base)(IDS).logits - logits).abs().max() > 1e-2


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("kind", CLASSES)
def test_ours_opens_there(kind: str, case: str, tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", FAMILIES.get(kind))
    model = load_model(base)
    attach_lora(model, LoraSettings(r=2, **SETTINGS[case][0]))
    move(model)
    save_adapter(model.eval(), tmp_path / "adapter")
    same(model, peft.PeftModel.from_pretrained(official(kind, base), tmp_path / "adapter").eval(), base)


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_theirs_opens_here(kind: str, case: str, tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", FAMILIES.get(kind))
    config = peft.LoraConfig(r=2, task_type="CAUSAL_LM", **SETTINGS[case][1])
    theirs = peft.get_peft_model(official(kind, base), config)
    move(theirs)
    theirs.eval().save_pretrained(tmp_path / "adapter")
    model = load_model(base)
    load_adapter(model, tmp_path / "adapter")
    same(model, theirs, base)


def test_theirs_goes_on_here_and_opens_there_again(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", FAMILIES.get("llama"))
    theirs = peft.get_peft_model(official("llama", base), peft.LoraConfig(r=2, target_modules="all-linear"))
    theirs.save_pretrained(tmp_path / "first")
    model = load_model(base)
    load_adapter(model, tmp_path / "first", trainable=True)
    move(model)
    save_adapter(model.eval(), tmp_path / "second")
    names = [set(json.loads((tmp_path / name / "adapter_config.json").read_text())) for name in ("first", "second")]
    assert names[1] <= names[0]
    same(model, peft.PeftModel.from_pretrained(official("llama", base), tmp_path / "second").eval(), base)
