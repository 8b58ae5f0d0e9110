"""A small model learns to look back: the second half of a row repeats the first, and the exact bound is known."""

from __future__ import annotations

import math

import pytest
import torch

from unmask.data.collate import Collator, Visit
from unmask.models.dense import initialise
from unmask.models.facts import facts_of
from unmask.models.families.llada import FAMILY
from unmask.models.shell import DiffusionModel
from unmask.objectives.masked import MaskedDiffusion
from unmask.types import Batch

MASK, LETTERS, HALF = 63, 60, 16


def repeated(step: int, chance: torch.Generator) -> Batch:
    half = torch.randint(0, LETTERS, (32, HALF), generator=chance)
    rows = torch.cat([half, half], dim=1)
    record = [{"input_ids": row, "may_noise": torch.ones(2 * HALF, dtype=torch.bool)} for row in rows]
    visits = [Visit(32 * step + i, 32 * step + i, 0, 2 * HALF, 2 * HALF) for i in range(32)]
    return Collator(eos_token_id=61, pad_token_id=62, padding="none")(list(zip(visits, record, strict=True)))


@pytest.mark.long
def test_copying_is_learned_to_the_entropy_of_what_is_copied() -> None:
    """A row holds 16 free letters in 32 places, so the bound can fall to log(60) / 2 nats per token and no lower."""
    wide = {**FAMILY.tiny_config, "d_model": 64, "n_kv_heads": 4, "n_layers": 3, "mlp_hidden_size": 128}
    model, objective = DiffusionModel(facts_of(wide)), MaskedDiffusion(MASK)
    initialise(model.trunk, model.head, torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    chance, bounds = torch.Generator().manual_seed(0), []
    for step in range(1300):
        batch = repeated(step, chance)
        sums = objective(model, batch, objective.noise(batch))
        (sums.loss / batch.x0_BL.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        bounds.append(float(sums.metrics["nll"][0]) / batch.x0_BL.numel())
    reached = sum(bounds[-100:]) / 100
    assert math.log(LETTERS) / 2 * 0.97 < reached < math.log(LETTERS) / 2 * 1.15
