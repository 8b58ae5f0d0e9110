"""dLLM's block diffusion: losses and gradients of its trainer, which draws one time per row, by our two streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.golden import MASK, SCHEDULES, batch_of, close, settings, tensors
from unmask.models.checkpoints import load_model
from unmask.models.names import to_our_name
from unmask.models.shell import DiffusionModel
from unmask.objectives.block import BlockDiffusion

PADDING = 508
KINDS = ("llama", "qwen2", "qwen3")


@pytest.fixture(scope="module", params=KINDS)
def golden(request: pytest.FixtureRequest, shared: Path) -> Path:
    return shared / "golden" / f"a2d_{request.param}"


@pytest.fixture(scope="module")
def model(golden: Path) -> DiffusionModel:
    return load_model(golden)


def loss_of(model: DiffusionModel, golden: Path, entry: dict[str, Any], *, halves: bool) -> torch.Tensor:
    given = tensors(golden, "bd3lm_loss_tensors")
    # the trainer drops the mask that would hide padding: it is fed, seen and counted as it stands
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    batch = batch_of(given, hide_padding=False)
    objective = BlockDiffusion(
        MASK,
        schedule=SCHEDULES[entry["scheduler"]],
        normalization=entry["loss_norm_type"],
        block_size=8,
        halves=halves,
    )
    noise = objective.noise_at(batch, given["t"], given[f"masked_{entry['scheduler']}"])
    assert halves == (noise.xt_BL.shape[1] == 2 * batch.x0_BL.shape[1])
    return objective(model, batch, noise).loss / objective.count(batch)


@torch.no_grad()
@pytest.mark.parametrize("halves", [True, False])
def test_losses(model: DiffusionModel, golden: Path, halves: bool) -> None:
    entries = [entry for entry in settings(golden, "bd3lm") if not entry["right_shift_logits"]]
    assert len(entries) == 6
    for entry in entries:
        close(loss_of(model, golden, entry, halves=halves), torch.tensor(entry["loss"]))


def test_gradients_of_all_parameters(model: DiffusionModel, golden: Path) -> None:
    (entry,) = (entry for entry in settings(golden, "bd3lm") if entry["key"] == "linear_scheduler_token")
    model.zero_grad()
    loss_of(model, golden, entry, halves=False).backward()
    theirs = tensors(golden, "bd3lm_grads")
    ours = {to_our_name(model.family, name): gradient for name, gradient in theirs.items()}
    assert ours.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        if name == "trunk.embed.weight":
            # transformers' embedding gives the padding token no gradient, though these rows see it
            assert ours[name][PADDING].abs().max() < 1e-6 < parameter.grad[PADDING].abs().max()
            parameter.grad[PADDING] = 0
        close(parameter.grad, ours[name])
    model.zero_grad()
