"""What a run trains: which weights stay as they are, under an adapter too."""

from __future__ import annotations

import pytest

from tests.models.tiny import on_meta
from unmask.models.adapters import LoraSettings
from unmask.registry import FAMILIES
from unmask.training.trained import Trained, make_trained


@pytest.mark.parametrize("family", ["llada", "llada_moe", "dream"])
def test_a_layer_is_frozen_with_its_adapter(family: str) -> None:
    model = on_meta(dict(FAMILIES.get(family).tiny_config))
    official = "*.blocks.0.*" if family == "llada" else "model.layers.0.*"
    make_trained(model, Trained(LoraSettings(use_dora=True, modules_to_save="head"), freeze=official))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert not any(".layers.0." in name for name in trained)
    assert any(".layers.1." in name and ".lora_B" in name for name in trained)
    assert "head.modules_to_save.default.weight" in trained


def test_an_adapters_own_names_are_known_too() -> None:
    model = on_meta(dict(FAMILIES.get("llada").tiny_config))
    make_trained(model, Trained(LoraSettings(), freeze="lora_A"))
    assert {name.split(".")[-3] for name, weight in model.named_parameters() if weight.requires_grad} == {"lora_B"}
