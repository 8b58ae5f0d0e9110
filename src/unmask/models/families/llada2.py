"""LLaDA2.0 (mini, flash) and LLaDA2.1: facts of the official checkpoints, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unmask.models.families import ConfigReader, KeyMap, ModelFamily
from unmask.models.families.llada_moe import CHAT_TEMPLATE
from unmask.models.families.rope import rope
from unmask.models.moe import SparseShape

_BLOCK, _LAYER = "model.layers.{}", "trunk.layers.{}"
_GATED = ("gate_proj", "up_proj", "down_proj")

KEYS = KeyMap(
    (
        ("model.word_embeddings", "trunk.embed"),
        (f"{_BLOCK}.input_layernorm", f"{_LAYER}.attention_norm"),
        (f"{_BLOCK}.attention.query_key_value", f"{_LAYER}.attention.qkv_proj"),
        (f"{_BLOCK}.attention.query_layernorm", f"{_LAYER}.attention.q_norm"),
        (f"{_BLOCK}.attention.key_layernorm", f"{_LAYER}.attention.k_norm"),
        (f"{_BLOCK}.attention.dense", f"{_LAYER}.attention.o_proj"),
        (f"{_BLOCK}.post_attention_layernorm", f"{_LAYER}.mlp_norm"),
        (f"{_BLOCK}.mlp.gate", f"{_LAYER}.mlp.router"),
        *((f"{_BLOCK}.mlp.{leaf}", f"{_LAYER}.mlp.{leaf}") for leaf in _GATED),
        *((f"{_BLOCK}.mlp.experts.{{}}.{leaf}", f"{_LAYER}.mlp.experts.{leaf}[{{}}]") for leaf in _GATED),
        *((f"{_BLOCK}.mlp.shared_experts.{leaf}", f"{_LAYER}.mlp.shared.{leaf}") for leaf in _GATED),
        ("model.norm", "trunk.norm"),
        ("lm_head", "head"),
    )
)


def _shape(config: Mapping[str, Any]) -> SparseShape:
    active = config["num_experts_per_tok"]
    expert_width, dense = config["moe_intermediate_size"], config["intermediate_size"]
    theta, scaling = rope(config)
    return SparseShape(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        mlp_width=expert_width if dense is None else dense,
        max_length=config["max_position_embeddings"],
        norm_eps=config["rms_norm_eps"],
        head_dim=config["head_dim"],
        rope_theta=theta,
        rope_scaling=scaling,
        rotary_share=config["partial_rotary_factor"],
        tied=config["tie_word_embeddings"],
        qkv_bias=config["use_qkv_bias"],
        qk_norm=config["use_qk_norm"],
        fused_qkv=True,
        init_std=config["initializer_range"],
        experts=config["num_experts"],
        active=active,
        expert_width=expert_width,
        shared_width=expert_width * (config["num_shared_experts"] or 0),
        first_dense=config["first_k_dense_replace"],
        scores="sigmoid",
        routing_bias=True,
        groups=config["n_group"],
        active_groups=config["topk_group"],
        normalised=active > 1,
        routed_scale=config["routed_scaling_factor"],
    )


READER = ConfigReader(
    shape=_shape,
    required=(
        "hidden_size",
        "moe_intermediate_size",
        "num_attention_heads",
        "num_experts",
        "num_hidden_layers",
        "num_key_value_heads",
        "vocab_size",
    ),
    # the official configuration's own defaults, but for dropout, where every published checkpoint says 0
    defaults={
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "first_k_dense_replace": 0,
        "head_dim": None,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "intermediate_size": None,
        "max_position_embeddings": 16384,
        "moe_router_enable_expert_bias": True,
        "n_group": 8,
        "norm_head": False,
        "norm_softmax": False,
        "norm_topk_prob": True,
        "num_experts_per_tok": 2,
        "num_shared_experts": 0,
        "output_dropout": 0.0,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-5,
        "rope_parameters": None,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "routed_scaling_factor": 2.5,
        "score_function": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 4,
        "use_bias": True,
        "use_qk_norm": True,
        "use_qkv_bias": False,
        "use_rmsnorm": True,
        "use_sliding_window": False,
        "using_split_qkv_in_self_attention": False,
    },
    fixed={
        "attention_dropout": (0.0,),
        "embedding_dropout": (0.0,),
        "hidden_act": ("silu",),
        "moe_router_enable_expert_bias": (True,),
        "norm_head": (False,),
        "norm_softmax": (False,),
        "norm_topk_prob": (True,),
        "output_dropout": (0.0,),
        "score_function": ("sigmoid",),
        "use_bias": (False,),
        "use_rmsnorm": (True,),
        "use_sliding_window": (False,),
        "using_split_qkv_in_self_attention": (False,),
    },
    ignored=frozenset(
        {
            "bos_token_id",
            "eos_token_id",
            "mask_token_id",
            "max_window_layers",
            "output_router_logits",
            "pad_token_id",
            # ours computes in float32 whatever this says, and takes partial_rotary_factor, as the official code does
            "rotary_dim",
            "router_dtype",
            "sliding_window",
        }
    ),
)

FAMILY = ModelFamily(
    name="llada2",
    model_type="llada2_moe",
    architecture="LLaDA2MoeModelLM",
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
    lora_targets=("query_key_value", "dense", "gate_proj", "up_proj", "down_proj"),
    tiny_config={
        "model_type": "llada2_moe",
        "architectures": ["LLaDA2MoeModelLM"],
        "eos_token_id": 61,
        "first_k_dense_replace": 1,
        "head_dim": 8,
        "hidden_size": 32,
        "intermediate_size": 48,
        "mask_token_id": 63,
        "max_position_embeddings": 128,
        "moe_intermediate_size": 16,
        "n_group": 4,
        "num_attention_heads": 4,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "num_shared_experts": 1,
        "pad_token_id": 62,
        "topk_group": 2,
        "use_bias": False,
        "vocab_size": 64,
    },
    paper="arXiv 2512.15745",
    attention="block_causal",
    block_size=32,
    model_types=("llada21_moe",),
    sizes={"LLaDA2.0-mini": 16_255_638_528, "LLaDA2.0-flash": 102_889_697_280},
)
