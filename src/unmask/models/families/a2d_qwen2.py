"""dLLM's converted Qwen2: Qwen2's layout and facts, bidirectional, with a mask token."""

from __future__ import annotations

from dataclasses import replace

from unmask.models.families.qwen2 import FAMILY as AUTOREGRESSIVE

FAMILY = replace(
    AUTOREGRESSIVE,
    name="a2d-qwen2",
    model_type="a2d-qwen2",
    architecture="A2DQwen2LMHeadModel",
    mask_token="<|mask|>",
    tiny_config={
        **AUTOREGRESSIVE.tiny_config,
        "model_type": "a2d-qwen2",
        "architectures": ["A2DQwen2LMHeadModel"],
        "mask_token_id": 63,
    },
    paper="arXiv 2410.17891",
    attention="bidirectional",
    sizes={},
)
