"""Checkpoints of a few thousand weights, written by the tests that need one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from unmask.models.checkpoints import load_model, save_model
from unmask.models.facts import facts_of
from unmask.models.families import ModelFamily
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES

LLADA: ModelFamily = FAMILIES.get("llada")


def write_config(folder: Path, family: ModelFamily = LLADA, **changes: Any) -> Path:
    """A folder with the family's tiny configuration, changed; a value of `...` drops its key."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in {**family.tiny_config, **changes}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def build(folder: Path, family: ModelFamily = LLADA, *, seed: int = 0, **changes: Any) -> DiffusionModel:
    """A model from the configuration alone, with weights strong enough that every one of them shows in the logits."""
    model = load_model(write_config(folder, family, **changes), from_scratch=True, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return model


def checkpoint(folder: Path, family: ModelFamily = LLADA, **changes: Any) -> Path:
    """A folder with a saved model."""
    save_model(build(folder, family, **changes), folder)
    return folder


def on_meta(config: dict[str, Any]) -> DiffusionModel:
    """The model of a configuration, without memory for its weights."""
    with torch.device("meta"):
        return DiffusionModel(facts_of(config))


def tokens(batch: int = 2, length: int = 12, vocab: int = 60, seed: int = 0) -> torch.Tensor:
    """int64 `[batch, length]`."""
    return torch.randint(0, vocab, (batch, length), generator=torch.Generator().manual_seed(seed))
