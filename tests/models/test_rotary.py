"""Rotation against the one of transformers' Llama, and in low precision far from the start."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaRotaryEmbedding, apply_rotary_pos_emb

from unmask.models.rotary import Rotation


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
