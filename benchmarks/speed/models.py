"""Models with random weights for timing: written once in the family's own layout, so that others can load them too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LLADA: dict[str, Any] = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "activation_type": "silu",
    "block_type": "llama",
    "include_bias": False,
    "init_fn": "mitchell",
    "layer_norm_type": "rms",
    "max_sequence_length": 1024,
    "rms_norm_eps": 1e-5,
    "rope": True,
    "rope_theta": 10000.0,
    "weight_tying": False,
    # published code drops a tenth where nothing is said
    "attention_dropout": 0.0,
    "embedding_dropout": 0.0,
    "residual_dropout": 0.0,
}
QWEN: dict[str, Any] = {
    "model_type": "a2d-qwen3",
    "architectures": ["A2DQwen3LMHeadModel"],
    "hidden_act": "silu",
    "attention_bias": False,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def llada(width: int, layers: int, heads: int, inner: int, vocabulary: int) -> dict[str, Any]:
    """A configuration of LLaDA's kind."""
    size = {"d_model": width, "n_layers": layers, "n_heads": heads, "n_kv_heads": heads, "mlp_hidden_size": inner}
    return {**LLADA, **size, **_vocabulary(vocabulary), "embedding_size": vocabulary}


def qwen(width: int, layers: int, heads: int, inner: int, vocabulary: int) -> dict[str, Any]:
    """A configuration of Qwen3's kind."""
    size = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": inner, "head_dim": width // heads}
    return {**QWEN, **size, **_vocabulary(vocabulary), "num_attention_heads": heads, "num_key_value_heads": heads}


def _vocabulary(size: int) -> dict[str, int]:
    names = ("mask_token_id", "eos_token_id", "pad_token_id", "bos_token_id")
    return {"vocab_size": size, **{name: size - 1 - index for index, name in enumerate(names)}}


CONFIGS = {
    "124M": llada(448, 6, 7, 768, 126_464),
    "0.9M": llada(128, 4, 4, 384, 512),
    "block": qwen(448, 6, 7, 768, 8192),
}


def write(folder: Path, config: dict[str, Any], seed: int = 0, dtype: str = "float32") -> Path:
    """A model whose special tokens are never the most probable, and a tokenizer of as many words."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from unmask.models.checkpoints import load_model, save_model

    if any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    size = config["vocab_size"]
    special = {"mask_token": "<m>", "eos_token": "<e>", "pad_token": "<p>", "bos_token": "<b>"}
    words = [f"w{index}" for index in range(size - len(special))] + list(reversed(special.values()))
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    model = load_model(folder, from_scratch=True, seed=seed, dtype=dtype)
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        # others propose the mask token and stop at the end's; here neither may happen
        head[size - len(special) :] = 0
    save_model(model, folder)
    return folder
