"""Reading the goldens of dLLM's masked-diffusion trainer: its batch, its noise, its settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from unmask.diffusion.schedules import Linear, MaskgitCosine
from unmask.models.shell import DiffusionModel
from unmask.objectives.masked import MaskedDiffusion
from unmask.types import AttentionSpec, Batch, SampleKeys

MASK = 511
SCHEDULES = {"linear": Linear(), "cosine": MaskgitCosine()}
WEIGHTS = {"scheduler": "elbo", "uniform": "uniform"}


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-5)


def settings(folder: Path, name: str = "mdlm") -> list[dict[str, Any]]:
    """What the trainer was run with, and the loss it computed."""
    return json.loads((folder / f"{name}_loss.json").read_text())["settings"]


def batch_of(
    given: dict[str, torch.Tensor],
    labels: str = "labels",
    *,
    hide_padding: bool = True,
    padding_is_context: bool = False,
) -> Batch:
    """The batch that the trainer was given.

    Args:
        hide_padding: not every run of the trainer was given the mask that hides padding.
        padding_is_context: its `cart` weight counts padding as unmasked neighbours; ours does not.
    """
    valid_BL, rows = given["attention_mask"].bool(), torch.arange(len(given["t"]))
    return Batch(
        x0_BL=given["input_ids"],
        may_noise_BL=given[labels] != -100,
        sample_BL=torch.where(valid_BL | padding_is_context, rows[:, None], -1),
        keys=SampleKeys(rows, rows, torch.zeros_like(rows)),
        attention=AttentionSpec(document_BL=valid_BL.long() - 1, packed=False) if hide_padding else None,
    )


def objective_of(entry: dict[str, Any]) -> MaskedDiffusion:
    weight, _, decay = entry["loss_weight_type"].rstrip("]").partition("[geo_p:")
    return MaskedDiffusion(
        mask_token_id=MASK,
        schedule=SCHEDULES[entry["scheduler"]],
        loss_weight=WEIGHTS.get(weight, weight),
        normalization=entry["loss_norm_type"],
        cart_p=float(decay or 0.3),
    )


def loss_of(model: DiffusionModel, entry: dict[str, Any], batch: Batch, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Our loss of the trainer's batch, at its times and its masks."""
    objective = objective_of(entry)
    suffix = "_shift" if entry.get("right_shift_logits") else ""
    noise = objective.noise_at(batch, given["t"], given[f"masked_{entry['scheduler']}{suffix}"])
    return objective(model, batch, noise).loss / objective.count(batch)


def tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.safetensors")
