"""LLaDA (8B Base, Instruct, 1.5) and iLLaDA, dense: facts of the official checkpoints, nothing else.

iLLaDA is the same network with other token ids, which its own files name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unmask.models.families import ConfigReader, KeyMap, ModelFamily
from unmask.models.shape import DenseShape

# whatever is the same in every published LLaDA; the official code's own defaults are other
_LIKE_8B = {
    "activation_type": "silu",
    "alibi": False,
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "embedding_dropout": 0.0,
    "flash_attention": False,
    "include_bias": False,
    "init_device": "cpu",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "multi_query_attention": None,
    "residual_dropout": 0.0,
    "rope": True,
    "rope_full_precision": True,
    "scale_logits": False,
    "use_cache": False,
}
_CODE = "GSAI-ML/LLaDA-8B-Base--"
_BLOCK, _LAYER = "model.transformer.blocks.{}", "trunk.layers.{}"

KEYS = KeyMap(
    (
        ("model.transformer.wte", "trunk.embed"),
        (f"{_BLOCK}.attn_norm", f"{_LAYER}.attention_norm"),
        (f"{_BLOCK}.q_proj", f"{_LAYER}.attention.q_proj"),
        (f"{_BLOCK}.k_proj", f"{_LAYER}.attention.k_proj"),
        (f"{_BLOCK}.v_proj", f"{_LAYER}.attention.v_proj"),
        (f"{_BLOCK}.attn_out", f"{_LAYER}.attention.o_proj"),
        (f"{_BLOCK}.ff_norm", f"{_LAYER}.mlp_norm"),
        (f"{_BLOCK}.ff_proj", f"{_LAYER}.mlp.gate_proj"),
        (f"{_BLOCK}.up_proj", f"{_LAYER}.mlp.up_proj"),
        (f"{_BLOCK}.ff_out", f"{_LAYER}.mlp.down_proj"),
        ("model.transformer.ln_f", "trunk.norm"),
        ("model.transformer.ff_out", "head"),
    )
)


def _shape(config: Mapping[str, Any]) -> DenseShape:
    """Rules of the official ModelConfig; `mlp_ratio` counts only where `mlp_hidden_size` is not given."""
    width, heads, vocab_size = config["d_model"], config["n_heads"], config["vocab_size"]
    rows = vocab_size if config["embedding_size"] is None else config["embedding_size"]
    if rows < vocab_size:
        raise ValueError(f"embedding_size {rows} is smaller than vocab_size {vocab_size}")
    if not config["rope_theta"] > 0:
        raise ValueError(f"rope_theta is {config['rope_theta']}; it must be above 0")
    kv_heads = heads if config["n_kv_heads"] is None else config["n_kv_heads"]
    inner = config["mlp_ratio"] * width if config["mlp_hidden_size"] is None else config["mlp_hidden_size"]
    return DenseShape(
        vocab_size=rows,
        width=width,
        layers=config["n_layers"],
        heads=heads,
        kv_heads=1 if config["multi_query_attention"] else kv_heads,
        mlp_width=inner,
        max_length=config["max_sequence_length"],
        norm_eps=config["rms_norm_eps"],
        rope_theta=config["rope_theta"],
        tied=config["weight_tying"],
        qkv_bias=config["include_qkv_bias"],
        embedding_scale=width**0.5 if config["input_emb_norm"] else 1.0,
        logit_scale=width**-0.5 if config["scale_logits"] else 1.0,
        init_fn=config["init_fn"],
        init_std=config["init_std"],
        init_cutoff=config["init_cutoff_factor"],
    )


def config_of(shape: DenseShape) -> dict[str, Any]:
    """An official configuration for a shape; `auto_map` names the official code, for those who open it with that.

    Raises:
        ValueError: LLaDA has no such network.
    """
    if shape.head_dim not in (None, shape.width / shape.heads):
        raise ValueError(f"LLaDA's heads are D / H wide, {shape.width / shape.heads:g}, and these are {shape.head_dim}")
    if shape.rope_scaling is not None:
        raise ValueError(f"LLaDA knows no scaling of rotary positions, and this model has {shape.rope_scaling.kind}")
    if shape.qk_norm:
        raise ValueError("LLaDA has no norm on queries and keys, and this model has one")
    return {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "auto_map": {
            "AutoConfig": f"{_CODE}configuration_llada.LLaDAConfig",
            "AutoModel": f"{_CODE}modeling_llada.LLaDAModelLM",
            "AutoModelForCausalLM": f"{_CODE}modeling_llada.LLaDAModelLM",
        },
        "d_model": shape.width,
        "n_layers": shape.layers,
        "n_heads": shape.heads,
        "n_kv_heads": shape.kv_heads,
        "mlp_hidden_size": shape.mlp_width,
        "vocab_size": shape.vocab_size,
        "embedding_size": shape.vocab_size,
        "max_sequence_length": shape.max_length,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "weight_tying": shape.tied,
        "include_qkv_bias": shape.qkv_bias,
        **_LIKE_8B,
    }


READER = ConfigReader(
    shape=_shape,
    required=("d_model", "n_heads", "n_layers", "vocab_size"),
    # the official ModelConfig's defaults, but for dropout, where every published checkpoint says 0
    defaults={
        "activation_type": "swiglu",
        "alibi": False,
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "bias_for_layer_norm": None,
        "block_group_size": 1,
        "block_type": "sequential",
        "embedding_dropout": 0.0,
        "embedding_size": None,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_cutoff_factor": None,
        "init_fn": "normal",
        "init_std": 0.02,
        "input_emb_norm": False,
        "layer_norm_type": "default",
        "layer_norm_with_affine": True,
        "max_sequence_length": 1024,
        "mlp_hidden_size": None,
        "mlp_ratio": 4,
        "multi_query_attention": None,
        "n_kv_heads": None,
        "residual_dropout": 0.0,
        "rms_norm_eps": 1e-5,
        "rope": False,
        "rope_full_precision": True,
        "rope_theta": 10000.0,
        "scale_logits": False,
        "weight_tying": True,
    },
    fixed={
        "activation_type": ("silu",),
        "alibi": (False,),
        "attention_dropout": (0.0,),
        "attention_layer_norm": (False,),
        "bias_for_layer_norm": (False, None),
        "block_group_size": (1,),
        "block_type": ("llama",),
        "embedding_dropout": (0.0,),
        "include_bias": (False,),
        "init_fn": ("mitchell", "normal", "full_megatron", "fan_in", "kaiming_normal"),
        "layer_norm_type": ("rms",),
        "layer_norm_with_affine": (True,),
        "multi_query_attention": (None, False, True),
        "residual_dropout": (0.0,),
        "rope": (True,),
        "rope_full_precision": (True,),
    },
    ignored=frozenset(
        {
            "alibi_bias_max",
            "attention_layer_norm_with_affine",
            "bos_token_id",
            "eos_token_id",
            "flash_attention",
            "init_device",
            "mask_token_id",
            "pad_token_id",
            "precision",
        }
    ),
)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

FAMILY = ModelFamily(
    name="llada",
    model_type="llada",
    architecture="LLaDAModelLM",
    trunk="unmask.models.dense:DenseTrunk",
    reader=READER,
    keys=KEYS,
    mask_token="<|mdm_mask|>",
    mask_token_id=126336,
    stop_tokens=("<|endoftext|>", "<|eot_id|>"),
    eos_token="<|endoftext|>",
    bos_token="<|startoftext|>",
    chat_template=CHAT_TEMPLATE,
    lora_targets=("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"),
    tiny_config={
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "activation_type": "silu",
        "block_type": "llama",
        "d_model": 32,
        "embedding_size": 64,
        "eos_token_id": 61,
        "include_bias": False,
        "init_fn": "mitchell",
        "layer_norm_type": "rms",
        "mask_token_id": 63,
        "max_sequence_length": 128,
        "mlp_hidden_size": 48,
        "n_heads": 4,
        "n_kv_heads": 2,
        "n_layers": 2,
        "pad_token_id": 62,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "vocab_size": 64,
        "weight_tying": False,
    },
    paper="arXiv 2502.09992",
    sizes={"LLaDA-8B": 8_015_581_184},
)
