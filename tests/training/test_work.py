"""Work counted by shapes against every operation that PyTorch really ran."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from tests.models.tiny import build
from unmask.data.collate import Collator, Visit
from unmask.models.adapters import LoraSettings, attach_lora
from unmask.models.shell import DiffusionModel
from unmask.objectives.block import BlockDiffusion
from unmask.objectives.masked import MaskedDiffusion
from unmask.registry import FAMILIES
from unmask.training.loading import NoisedBatch, Noiser
from unmask.training.work import Work, cost_of, work_of

LENGTH = 32
MASK = 63


def noised(objective: MaskedDiffusion, lengths: tuple[int, ...] = (LENGTH, LENGTH)) -> NoisedBatch:
    visits = [Visit(number, number, 0, length, length) for number, length in enumerate(lengths)]
    rows = [(visit, {"input_ids": [5 + i % 40 for i in range(visit.length)]}) for visit in visits]
    return Noiser(Collator(61, 62, padding="none"), objective)(rows)


def masked(**more: object) -> MaskedDiffusion:
    return MaskedDiffusion(mask_token_id=MASK, **more)  # type: ignore[arg-type]


def counted(model: DiffusionModel, item: NoisedBatch, objective: MaskedDiffusion) -> int:
    """By PyTorch's own counter, attention written out, in a type for which PyTorch has but one product.

    Without the head's logits that are computed again in the backward pass.
    """
    model.double().train()
    model.trunk.eager_attention = True
    with FlopCounterMode(display=False) as counter:
        objective(model, item.batch, item.noise).loss.backward()
    return counter.get_total_flops() - 2 * model.head.weight.numel() * item.work.predicted


def test_a_dense_network_costs_what_ran(tmp_path: Path) -> None:
    model, objective = build(tmp_path), masked(views=2)
    item = noised(objective)
    assert item.work.tokens == 2 * 2 * LENGTH and item.work.positions == 2 * LENGTH
    assert item.work.pairs == 2 * 2 * LENGTH**2
    assert cost_of(model).of(item.work) == pytest.approx(counted(model, item, objective), rel=1e-3)


def test_frozen_weights_cost_less(tmp_path: Path) -> None:
    model, objective = build(tmp_path), masked()
    whole = cost_of(model)
    attach_lora(model, LoraSettings(r=4, lora_dropout=0.0))
    item, cost = noised(objective), cost_of(model)
    # nothing is learned below the first layer, whose inputs need no gradients: this much is counted but does not run
    layer = model.trunk.layers[0]
    spared = [layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj]
    below = sum(2 * module.base_layer.weight.numel() + 2 * module.lora_A["default"].weight.numel() for module in spared)
    ran = counted(model, item, objective)
    assert cost.of(item.work) - below * item.work.tokens == pytest.approx(ran, rel=1e-3)
    assert cost.prediction < whole.prediction


def test_experts_count_where_a_token_goes(tmp_path: Path) -> None:
    model = build(tmp_path, FAMILIES.get("llada_moe"))
    cost, shape = cost_of(model), model.facts.shape
    matrices = 3 * shape.width * (shape.expert_width * shape.active + shape.shared_width)
    dense = 3 * shape.width * shape.mlp_width
    router = shape.experts * shape.width
    inner = shape.heads * shape.head_width
    attention = 2 * shape.width * inner + 2 * shape.width * shape.kv_heads * shape.head_width
    sparse = sum(shape.is_sparse(layer) for layer in range(shape.layers))
    weights = shape.layers * attention + sparse * (matrices + router) + (shape.layers - sparse) * dense
    # the last layer's output and experts run where something is predicted
    late = shape.width * inner + (matrices + router if shape.is_sparse(shape.layers - 1) else dense)
    assert cost.token == 6 * (weights - late)
    assert cost.prediction == 6 * (late + shape.vocab_size * shape.width)


def test_padding_is_no_work_and_two_streams_are() -> None:
    item = noised(masked(), (LENGTH, 5))
    assert item.work == Work(2 * LENGTH, LENGTH + 5, len(item.noise.targets), LENGTH**2 + 25)
    block = BlockDiffusion(mask_token_id=MASK, block_size=8)
    rows = noised(block)
    # the last block has no clean copy, nobody sees it
    assert rows.work.tokens == 2 * (LENGTH + LENGTH - 8)
    noisy, clean = 8 * (8 + 16 + 24 + 32), 8 * (8 + 16 + 24)
    assert rows.work.pairs == 2 * (noisy + clean)
    assert work_of(replace(rows.batch), rows.noise) == rows.work
