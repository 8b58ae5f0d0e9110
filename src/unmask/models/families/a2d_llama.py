"""dLLM's converted Llama: Llama's layout and facts, bidirectional, with a mask token."""

from __future__ import annotations

from dataclasses import replace

from unmask.models.families.llama import FAMILY as AUTOREGRESSIVE

FAMILY = replace(
    AUTOREGRESSIVE,
    name="a2d-llama",
    model_type="a2d-llama",
    architecture="A2DLlamaLMHeadModel",
    mask_token="<|mask|>",
    tiny_config={
        **AUTOREGRESSIVE.tiny_config,
        "model_type": "a2d-llama",
        "architectures": ["A2DLlamaLMHeadModel"],
        "mask_token_id": 63,
    },
    paper="arXiv 2410.17891",
    attention="bidirectional",
    sizes={},
)
