"""Published checkpoints have, on the meta device, as many parameters as their files."""

from __future__ import annotations

import pytest

from tests.models.official import OFFICIAL
from tests.models.tiny import on_meta
from unmask.models.checkpoints import official_tensors
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES

SIZES = [(family, name) for family in FAMILIES.names() for name in FAMILIES.get(family).sizes]


@pytest.mark.parametrize(("family", "name"), SIZES)
def test_shapes_add_up_to_the_published_number(family: str, name: str):
    model = on_meta(OFFICIAL[name])
    assert model.family is FAMILIES.get(family)
    assert model.num_parameters() == model.family.sizes[name]
    assert all(parameter.is_meta for parameter in model.parameters())


def test_every_shape_has_a_number():
    assert sorted(OFFICIAL) == sorted(name for _, name in SIZES)


@pytest.mark.parametrize(
    ("name", "ends", "billions"),
    [
        # as their reports count: with the head; without embedding and head
        ("LLaDA-MoE-7B-A1B", 1, 1.4),
        ("LLaDA2.0-mini", 2, 0.789),
        ("LLaDA2.0-flash", 2, 4.8),
    ],
)
def test_a_token_meets_as_many_as_published(name: str, ends: int, billions: float):
    model = on_meta(OFFICIAL[name])
    assert met_by_a_token(model, ends) / 1e9 == pytest.approx(billions, rel=0.02)


def met_by_a_token(model: DiffusionModel, ends: int) -> int:
    """Weights that one token meets; of embedding and head, one or neither is counted."""
    shape = model.facts.shape
    idle = shape.experts - shape.active
    unmet = sum(w.numel() // shape.experts * idle for name, w in model.named_parameters() if ".experts." in name)
    return model.num_parameters() - unmet - ends * shape.vocab_size * shape.width


def test_the_16b_model_has_the_tensors_of_its_files():
    """16,255,643,392 numbers, those of the routing biases included; every expert by itself."""
    official = official_tensors(on_meta(OFFICIAL["LLaDA2.0-mini"]))
    assert sum(tensor.numel() for tensor in official.values()) == 16_255_643_392
    assert sum(".experts." in name for name in official) == 19 * 256 * 3
    assert official["model.layers.19.mlp.experts.255.up_proj.weight"].shape == (512, 2048)
