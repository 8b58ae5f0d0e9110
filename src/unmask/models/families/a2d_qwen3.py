"""dLLM's converted Qwen3: Qwen3's layout and facts, bidirectional, with a mask token."""

from __future__ import annotations

from dataclasses import replace

from unmask.models.families.qwen3 import FAMILY as AUTOREGRESSIVE

FAMILY = replace(
    AUTOREGRESSIVE,
    name="a2d-qwen3",
    model_type="a2d-qwen3",
    architecture="A2DQwen3LMHeadModel",
    mask_token="<|mask|>",
    tiny_config={
        **AUTOREGRESSIVE.tiny_config,
        "model_type": "a2d-qwen3",
        "architectures": ["A2DQwen3LMHeadModel"],
        "mask_token_id": 63,
    },
    paper="arXiv 2410.17891",
    attention="bidirectional",
    sizes={"Qwen3-0.6B-diffusion": 596_049_920},
)
