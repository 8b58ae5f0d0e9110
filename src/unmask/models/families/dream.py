"""Dream (7B Base, Instruct, Coder): facts of the official checkpoints, nothing else.

Made of Qwen2.5, whose logits it keeps: row i of the network predicts token i + 1.
"""

from __future__ import annotations

from unmask.models.families import ModelFamily, llama_layout

FAMILY = ModelFamily(
    name="dream",
    model_type="Dream",
    architecture="DreamModel",
    trunk="unmask.models.dense:DenseTrunk",
    reader=llama_layout.reader(
        defaults={"max_position_embeddings": 32768, "num_key_value_heads": 32, "use_sliding_window": False},
        fixed={"use_sliding_window": (False,)},
        ignored=("max_window_layers", "sliding_window"),
        qkv_bias=True,
    ),
    keys=llama_layout.KEYS,
    mask_token="<|mask|>",
    mask_token_id=151666,
    stop_tokens=("<|endoftext|>", "<|im_end|>"),
    eos_token="<|endoftext|>",
    bos_token="<|beginoftext|>",
    chat_template=llama_layout.CHATML,
    lora_targets=llama_layout.LORA_TARGETS,
    tiny_config={
        "model_type": "Dream",
        "architectures": ["DreamModel"],
        **llama_layout.TINY,
        "mask_token_id": 63,
    },
    paper="arXiv 2508.15487",
    shift=True,
    # the official DreamTokenizer is a copy of it
    tokenizer_class="Qwen2Tokenizer",
    sizes={"Dream-7B": 7_615_616_512},
)
