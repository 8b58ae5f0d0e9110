"""LLaDA-MoE (7B-A1B Base, Instruct): facts of the official checkpoints, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unmask.models.families import ConfigReader, KeyMap, ModelFamily, llama_layout
from unmask.models.families.rope import rope
from unmask.models.moe import SparseShape

_BLOCK, _LAYER = "model.layers.{}", "trunk.layers.{}"
_GATED = ("gate_proj", "up_proj", "down_proj")

KEYS = KeyMap(
    (
        *llama_layout.KEYS.pairs,
        (f"{_BLOCK}.mlp.gate", f"{_LAYER}.mlp.router"),
        *((f"{_BLOCK}.mlp.experts.{{}}.{leaf}", f"{_LAYER}.mlp.experts.{leaf}[{{}}]") for leaf in _GATED),
        *((f"{_BLOCK}.shared_expert.{leaf}", f"{_LAYER}.mlp.shared.{leaf}") for leaf in _GATED),
    )
)


def _shape(config: Mapping[str, Any]) -> SparseShape:
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    groups, frequency = config["num_key_value_heads"], config["moe_layer_freq"]
    theta, scaling = rope(config)
    if not isinstance(frequency, list) or len(frequency) != layers:
        raise ValueError(f"moe_layer_freq is {frequency!r}; it must list, for each of the {layers} layers, 1 or 0")
    dense, expert_width = config["dense_intermediate_size"], config["expert_intermediate_size"]
    return SparseShape(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        layers=layers,
        heads=heads,
        kv_heads=heads if groups is None else groups,
        mlp_width=expert_width if dense is None else dense,
        max_length=config["max_position_embeddings"],
        norm_eps=config["rms_norm_eps"],
        rope_theta=theta,
        rope_scaling=scaling,
        rotary_share=config["partial_rotary_factor"],
        tied=config["tie_word_embeddings"],
        qk_norm=bool(config["qk_layernorm"]),
        init_std=config["initializer_range"],
        experts=config["num_experts"],
        active=config["num_experts_per_tok"],
        expert_width=expert_width,
        shared_width=config["shared_expert_intermediate_size"] or 0,
        dense_layers=tuple(layer for layer, is_sparse in enumerate(frequency) if not is_sparse),
    )


READER = ConfigReader(
    shape=_shape,
    required=(
        "expert_intermediate_size",
        "hidden_size",
        "moe_layer_freq",
        "num_attention_heads",
        "num_experts",
        "num_experts_per_tok",
        "num_hidden_layers",
        "rope_theta",
        "vocab_size",
    ),
    # the official configuration's own defaults, but for partial_rotary_factor, where it has none that works
    defaults={
        "attention_bias": False,
        "attention_dropout": 0.0,
        "clip_qkv": None,
        "dense_intermediate_size": None,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 4096,
        "moe_router_enable_expert_bias": None,
        "moe_router_score_function": None,
        "norm_topk_prob": None,
        "num_key_value_heads": None,
        "partial_rotary_factor": 1.0,
        "qk_layernorm": None,
        "rms_norm_eps": 1e-5,
        "rope_parameters": None,
        "rope_scaling": None,
        "routed_scaling_factor": 1.0,
        "shared_expert_intermediate_size": None,
        "tie_word_embeddings": False,
    },
    fixed={
        "attention_bias": (False,),
        "attention_dropout": (0.0,),
        "clip_qkv": (None,),
        "hidden_act": ("silu",),
        "moe_router_enable_expert_bias": (None, False),
        "moe_router_score_function": (None, "softmax"),
        "norm_topk_prob": (None, False),
        "qk_layernorm": (None, False, True),
        "routed_scaling_factor": (1.0,),
    },
    ignored=frozenset(
        {
            "bos_token_id",
            "eos_token_id",
            "mask_token_id",
            "output_router_logits",
            "pad_token_id",
            "router_aux_loss_coef",
            # the official router has no groups, whatever these say
            "router_num_group",
            "router_topk_group",
        }
    ),
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% set role = {'user': 'HUMAN', 'assistant': 'ASSISTANT', 'system': 'SYSTEM'}[message['role']] %}"
    "{{ '<role>' + role + '</role>' + message['content'] + '<|role_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<role>ASSISTANT</role>' }}{% endif %}"
)

FAMILY = ModelFamily(
    name="llada_moe",
    model_type="lladamoe",
    architecture="LLaDAMoEModelLM",
    trunk="unmask.models.moe:SparseTrunk",
    reader=READER,
    keys=KEYS,
    mask_token="<|mask|>",
    mask_token_id=156895,
    stop_tokens=("<|endoftext|>", "<|role_end|>"),
    eos_token="<|endoftext|>",
    bos_token="<|startoftext|>",
    chat_template=CHAT_TEMPLATE,
    # no experts: they would be nearly all of an adapter
    lora_targets=llama_layout.LORA_TARGETS,
    tiny_config={
        "model_type": "lladamoe",
        "architectures": ["LLaDAMoEModelLM"],
        "dense_intermediate_size": 48,
        "eos_token_id": 61,
        "expert_intermediate_size": 24,
        "hidden_size": 32,
        "mask_token_id": 63,
        "max_position_embeddings": 128,
        "moe_layer_freq": [0, 1],
        "num_attention_heads": 4,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 62,
        "partial_rotary_factor": 1,
        "qk_layernorm": True,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000,
        "shared_expert_intermediate_size": 16,
        "vocab_size": 64,
    },
    paper="arXiv 2509.24389",
    model_types=("llada",),
    sizes={"LLaDA-MoE-7B-A1B": 7_356_880_896},
)
