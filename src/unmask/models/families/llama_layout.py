"""The layout that transformers gave Llama and that Mistral, Qwen2, Qwen3 and their descendants keep.

Facts that are the same in all of them; what differs stands in each family's own file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unmask.models.families import ConfigReader, KeyMap
from unmask.models.families.rope import rope
from unmask.models.shape import DenseShape

_BLOCK, _LAYER = "model.layers.{}", "trunk.layers.{}"

KEYS = KeyMap(
    (
        ("model.embed_tokens", "trunk.embed"),
        (f"{_BLOCK}.input_layernorm", f"{_LAYER}.attention_norm"),
        (f"{_BLOCK}.self_attn.q_proj", f"{_LAYER}.attention.q_proj"),
        (f"{_BLOCK}.self_attn.k_proj", f"{_LAYER}.attention.k_proj"),
        (f"{_BLOCK}.self_attn.v_proj", f"{_LAYER}.attention.v_proj"),
        (f"{_BLOCK}.self_attn.o_proj", f"{_LAYER}.attention.o_proj"),
        (f"{_BLOCK}.self_attn.q_norm", f"{_LAYER}.attention.q_norm"),
        (f"{_BLOCK}.self_attn.k_norm", f"{_LAYER}.attention.k_norm"),
        (f"{_BLOCK}.post_attention_layernorm", f"{_LAYER}.mlp_norm"),
        (f"{_BLOCK}.mlp.gate_proj", f"{_LAYER}.mlp.gate_proj"),
        (f"{_BLOCK}.mlp.up_proj", f"{_LAYER}.mlp.up_proj"),
        (f"{_BLOCK}.mlp.down_proj", f"{_LAYER}.mlp.down_proj"),
        ("model.norm", "trunk.norm"),
        ("lm_head", "head"),
    )
)

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 61,
    "pad_token_id": 62,
    "vocab_size": 64,
}

_REQUIRED = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
_DEFAULTS = {
    "attention_dropout": 0.0,
    "head_dim": None,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "num_key_value_heads": None,
    "original_max_position_embeddings": None,
    "rms_norm_eps": 1e-6,
    "rope_parameters": None,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
_IGNORED = frozenset({"bos_token_id", "eos_token_id", "mask_token_id", "pad_token_id", "pretraining_tp"})


def reader(
    *, defaults: Mapping[str, Any], fixed: Mapping[str, Any] | None = None, ignored: tuple[str, ...] = (), **shape: Any
) -> ConfigReader:
    """How to read such a configuration: what is common, and a family's own `defaults`, `fixed`, `ignored`, `shape`."""
    return ConfigReader(
        shape=lambda config: _shape(config, **shape),
        required=_REQUIRED,
        defaults={**_DEFAULTS, **defaults},
        fixed={"attention_dropout": (0.0,), "hidden_act": ("silu",), **(fixed or {})},
        ignored=_IGNORED | set(ignored),
    )


def _shape(
    config: Mapping[str, Any], *, qkv_bias: bool = False, qk_norm: bool = False, window: int | None = None
) -> DenseShape:
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    theta, scaling = rope(config)
    # layer by layer, full attention or a window; only Qwen's files say so
    if any(kind != "full_attention" for kind in config.get("layer_types") or ()):
        raise ValueError("layer_types names layers that are not full_attention, which are not supported")
    return DenseShape(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=heads if groups is None else groups,
        mlp_width=config["intermediate_size"],
        max_length=config["max_position_embeddings"],
        norm_eps=config["rms_norm_eps"],
        head_dim=config["head_dim"],
        rope_theta=theta,
        rope_scaling=scaling,
        window=_window(config, window) if window else None,
        tied=config["tie_word_embeddings"],
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        init_fn="flat",
        init_std=config["initializer_range"],
    )


def _window(config: Mapping[str, Any], default: int) -> int | None:
    window = config.get("sliding_window", default)
    if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 1):
        raise ValueError(f"sliding_window is {window!r}; it must be null or a whole number of at least 1")
    return window
