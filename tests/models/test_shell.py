"""The shell is a module like any other: it copies, casts, compiles, saves its state and runs its head as a module."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.models.tiny import LLADA, build, tokens
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES
from unmask.types import AttentionSpec, Denoiser


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> DiffusionModel:
    return build(tmp_path, weight_tying=request.param)


def test_it_is_a_denoiser_and_shows_the_official_configuration(model):
    assert isinstance(model, Denoiser)
    assert model.config.to_dict() == model.facts.config and model.config.model_type == "llada"
    assert (model.mask_token_id, model.family) == (63, LLADA)
    assert model.get_input_embeddings() is model.trunk.embed and model.get_output_embeddings() is model.head


def test_a_copy_is_equal_and_apart(model):
    twin = copy.deepcopy(model)
    assert torch.equal(twin(tokens()).logits, model(tokens()).logits)
    assert (twin.head.weight is twin.trunk.embed.weight) == model.facts.shape.tied
    with torch.no_grad():
        twin.trunk.norm.weight.zero_()
    assert model(tokens()).logits.abs().sum() > 0


def test_its_state_goes_into_another(model, tmp_path: Path):
    other = build(tmp_path / "other", seed=9, weight_tying=model.facts.shape.tied)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(tokens()).logits, model(tokens()).logits)


def test_a_type_change_reaches_everything(model):
    model.to(torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model(tokens()).logits.dtype == torch.bfloat16
    assert model.trunk.new_cache(1, 4).keys.dtype == torch.bfloat16


@pytest.mark.parametrize("at", [None, torch.tensor([1, 5])])
def test_the_head_runs_as_a_module_once(model, at: torch.Tensor | None):
    """Under FSDP a weight is there only while the hooks of its own module say so."""
    shapes: list[tuple[int, ...]] = []
    model.head.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    model(tokens(), logits_at=at)
    assert shapes == [(2, 12, 64) if at is None else (2, 64)]


def test_the_two_ways_to_say_padding_are_one(model):
    mask_BL = torch.ones(2, 12, dtype=torch.long)
    mask_BL[0, 9:] = 0
    by_spec = model(tokens(), attention=AttentionSpec(document_BL=mask_BL - 1)).logits
    for mask in (mask_BL, mask_BL.bool(), mask_BL.float()):
        torch.testing.assert_close(model(tokens(), mask).logits, by_spec)


@torch.no_grad()
def test_the_trunk_compiles_without_a_break(model):
    spec = AttentionSpec(document_BL=torch.tensor([[0] * 12, [0] * 9 + [-1] * 3]), packed=False)
    compiled = torch.compile(model.trunk, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens()), model.trunk(tokens()))
    torch.testing.assert_close(compiled(tokens(), attention=spec), model.trunk(tokens(), attention=spec))


def test_only_asked_positions_receive_gradients_of_the_head(model):
    model(tokens(), logits_at=torch.tensor([0]), targets=torch.tensor([3])).nll.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_its_layers_are_what_sharding_wraps(model):
    names = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules) <= names
    assert isinstance(model.trunk.layers, nn.ModuleList)


@torch.no_grad()
@pytest.mark.parametrize("spec", [None, "padded", "blocks", "window"])
def test_logits_of_a_few_columns_are_those_of_a_full_forward(tmp_path: Path, spec: str | None):
    model, x_BL = build(tmp_path, FAMILIES.get("a2d-qwen3")), tokens(3, 12)
    block_BL = (torch.arange(12) // 3)[None]
    document_BL = torch.tensor([[0] * 12, [0] * 9 + [-1] * 3, [0] * 11 + [-1]])
    attention = {
        None: None,
        "padded": AttentionSpec(document_BL=document_BL, packed=False),
        "blocks": AttentionSpec("block_causal", document_BL, packed=False, block_BL=block_BL),
        "window": AttentionSpec(window=4),
    }[spec]
    full = model(x_BL, attention=attention)
    at = torch.tensor([3, 5, 12 + 6, 24 + 4])
    few = model(x_BL, attention=attention, logits_at=at)
    assert few.hidden is None and full.hidden is not None
    torch.testing.assert_close(few.logits, full.logits.flatten(0, 1)[at], atol=1e-5, rtol=1e-5)
