"""Qwen3, dense, autoregressive: facts of the official checkpoints, nothing else."""

from __future__ import annotations

from unmask.models.families import ModelFamily, llama_layout

FAMILY = ModelFamily(
    name="qwen3",
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    trunk="unmask.models.dense:DenseTrunk",
    reader=llama_layout.reader(
        defaults={
            "attention_bias": False,
            "head_dim": 128,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 32,
            "use_sliding_window": False,
        },
        fixed={"attention_bias": (False,), "use_sliding_window": (False,)},
        ignored=("layer_types", "max_window_layers", "sliding_window"),
        qk_norm=True,
    ),
    keys=llama_layout.KEYS,
    mask_token=None,
    mask_token_id=None,
    stop_tokens=("<|endoftext|>", "<|im_end|>"),
    eos_token="<|endoftext|>",
    bos_token="<|endoftext|>",
    chat_template=llama_layout.CHATML,
    lora_targets=llama_layout.LORA_TARGETS,
    # heads wider than D / H, as in the official 0.6B
    tiny_config={"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], **llama_layout.TINY, "head_dim": 16},
    paper="arXiv 2505.09388",
    attention="causal",
    sizes={"Qwen3-8B": 8_190_735_360},
)
