"""Qwen2 and Qwen2.5, dense, autoregressive: facts of the official checkpoints, nothing else."""

from __future__ import annotations

from unmask.models.families import ModelFamily, llama_layout

FAMILY = ModelFamily(
    name="qwen2",
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    trunk="unmask.models.dense:DenseTrunk",
    reader=llama_layout.reader(
        defaults={"max_position_embeddings": 32768, "num_key_value_heads": 32, "use_sliding_window": False},
        fixed={"use_sliding_window": (False,)},
        ignored=("layer_types", "max_window_layers", "sliding_window"),
        qkv_bias=True,
    ),
    keys=llama_layout.KEYS,
    mask_token=None,
    mask_token_id=None,
    stop_tokens=("<|endoftext|>", "<|im_end|>"),
    eos_token="<|endoftext|>",
    bos_token="<|endoftext|>",
    chat_template=llama_layout.CHATML,
    lora_targets=llama_layout.LORA_TARGETS,
    tiny_config={"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], **llama_layout.TINY},
    paper="arXiv 2407.10671, 2412.15115",
    attention="causal",
    sizes={"Qwen2.5-7B": 7_615_616_512},
)
