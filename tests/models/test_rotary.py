"""Rotation against the one of transformers' Llama, and in low precision far from the start."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaRotaryEmbedding, apply_rotary_pos_emb

from tests.models.tiny import on_meta
from unmask.models.rotary import Rotation
from unmask.registry import FAMILIES


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_rotation_is_that_of_llama(theta: float):
    x_BHLK, positions_BL = torch.randn(2, 3, 6, 8), torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 4000]])
    config = LlamaConfig(hidden_size=24, num_attention_heads=3, rope_theta=theta)
    config.rope_parameters = {"rope_type": "default", "rope_theta": theta}
    cos, sin = LlamaRotaryEmbedding(config)(x_BHLK, positions_BL)
    expected, _ = apply_rotary_pos_emb(x_BHLK, x_BHLK, cos, sin)
    torch.testing.assert_close(Rotation.at(positions_BL, width=8, theta=theta).apply(x_BHLK), expected)


def test_rotation_keeps_the_type_and_turns_in_float32():
    x_BHLK, far_L = torch.randn(1, 1, 2, 8).bfloat16(), torch.tensor([4001, 4002])
    turned = Rotation.at(far_L, width=8, theta=10000.0).apply(x_BHLK)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.float().norm(dim=-1), x_BHLK.float().norm(dim=-1), rtol=0.01, atol=0)
    assert not torch.equal(turned[..., 0, :], turned[..., 1, :])


def test_part_of_a_head_is_rotated():
    """The first numbers as a head of that width alone, the others not at all."""
    x_BHLK = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(5) * 3
    turned = Rotation.at(positions, width=4, theta=100.0).apply(x_BHLK)
    assert torch.equal(turned[..., 4:], x_BHLK[..., 4:])
    assert torch.equal(turned[..., :4], Rotation.at(positions, width=4, theta=100.0).apply(x_BHLK[..., :4]))
    assert (turned[:, :, 1:, :4] != x_BHLK[:, :, 1:, :4]).any()
    assert on_meta(dict(FAMILIES.get("llada2").tiny_config)).facts.shape.rotary_width == 4
