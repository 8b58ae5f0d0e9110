"""Official names of tensors that are parts of a stack; `contract/test_families.py` asks every family for all of its."""

from __future__ import annotations

from unmask.models.names import to_official_name
from unmask.registry import FAMILIES

LLADA2 = FAMILIES.get("llada2")


def test_a_stack_has_one_name_for_all_its_parts():
    assert (
        to_official_name(LLADA2, "trunk.layers.1.mlp.experts.up_proj.weight")
        == "model.layers.1.mlp.experts.*.up_proj.weight"
    )
    assert (
        to_official_name(LLADA2, "trunk.layers.1.mlp.experts.up_proj[7].weight")
        == "model.layers.1.mlp.experts.7.up_proj.weight"
    )
