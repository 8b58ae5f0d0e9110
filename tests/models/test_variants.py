"""What real checkpoints differ in, each as it loads and as it is refused, with what to do about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import unmask
from tests import tiny
from tests.models.tiny import checkpoint, tokens
from unmask.errors import ModelError
from unmask.models.checkpoints import load_model
from unmask.models.families import ModelFamily
from unmask.registry import FAMILIES

WEIGHTS = "model.safetensors"
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def family(name: str) -> ModelFamily:
    return FAMILIES.get(name)


def reconfigured(folder: Path, **changes: Any) -> Path:
    """The configuration changed after the weights were written; `...` drops a key."""
    found = {**json.loads((folder / "config.json").read_text()), **changes}
    found = {key: value for key, value in found.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(found))
    return folder


# what a checkpoint is made with -> tensors that it then has, or lacks
LOADS: dict[str, tuple[str, dict[str, Any], str, bool]] = {
    "llama, a head of its own": ("llama", {}, "lm_head.weight", True),
    "llama, tied": ("llama", {"tie_word_embeddings": True}, "lm_head.weight", False),
    "llada, tied": ("llada", {"weight_tying": True}, "model.transformer.ff_out.weight", False),
    "llama, keys of its own for each head": ("llama", {"num_key_value_heads": 4}, "model.norm.weight", True),
    "llama, one key for all heads": ("llama", {"num_key_value_heads": 1}, "model.norm.weight", True),
    "llada, one key for all heads": ("llada", {"multi_query_attention": True, "n_kv_heads": None}, "x", False),
    "qwen2, biases": ("qwen2", {}, "model.layers.0.self_attn.q_proj.bias", True),
    "llada, biases": ("llada", {"include_qkv_bias": True}, "model.transformer.blocks.0.k_proj.bias", True),
    "qwen3, normed queries": ("qwen3", {}, "model.layers.0.self_attn.q_norm.weight", True),
    "mistral, wide heads": ("mistral", {"head_dim": 16}, "model.norm.weight", True),
    "llama 2, slowed down": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "x", False),
    "llama 3.1": ("llama", {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16}}, "x", False),
    "qwen2, as its card says for long texts": ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "x", False),
    "llama, no scaling said so": ("llama", {"rope_scaling": None}, "x", False),
}


@pytest.mark.parametrize("case", LOADS)
def test_it_loads(case: str, tmp_path: Path) -> None:
    kind, changes, name, there = LOADS[case]
    folder = checkpoint(tmp_path, family(kind), **changes)
    assert (name in load_file(folder / WEIGHTS)) == there
    assert load_model(folder)(tokens()).logits.isfinite().all()


# how a checkpoint is made, what its configuration says afterwards, and what is said of that
REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "a tied llama that hides it": (
        "llama",
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": ...},
        "missing .first: lm_head.weight.. If its head is its embedding, set tie_word_embeddings to true",
    ),
    "a tied llada that hides it": (
        "llada",
        {"weight_tying": True},
        {"weight_tying": False},
        "If its head is its embedding, set weight_tying to true in config.json",
    ),
    "shared keys that are not declared": (
        "llama",
        {"num_key_value_heads": 2},
        {"num_key_value_heads": ...},
        r"k_proj.weight has shape \[16, 32\], config.json asks for \[32, 32\]",
    ),
    "shared keys that do not divide": ("llama", {}, {"num_key_value_heads": 3}, "into 3 groups that share keys"),
    "biases that are not declared": (
        "llada",
        {"include_qkv_bias": True},
        {"include_qkv_bias": False},
        r"6 are not part .*bias\). config.json describes a network without them: take the one that belongs",
    ),
    "biases of a llama": ("qwen2", {}, {"model_type": "llama"}, "describes a network without them"),
    "norms that are missing": (
        "qwen2",
        {},
        {"model_type": "qwen3", "head_dim": 8},
        "4 tensors are missing .first: .*k_norm.weight. and 6 are not part of a qwen3 model",
    ),
    "norms of a llama": ("qwen3", {}, {"model_type": "llama"}, "describes a network without them"),
    "angles that grow with the text": (
        "qwen2",
        {},
        {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
        'rope_type "dynamic" is not supported; supported: default, linear, llama3, yarn, longrope',
    ),
    "longrope of wider heads": (
        "llama",
        {},
        {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0]}},
        "short_factor and long_factor hold 4 and 1 numbers; a head of this model is rotated in 4 pairs",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_advice(case: str, tmp_path: Path) -> None:
    kind, made, said, phrase = REFUSED[case]
    folder = reconfigured(checkpoint(tmp_path, family(kind), **made), **said)
    with pytest.raises(ModelError, match=phrase):
        load_model(folder)


# the vocabulary


def test_more_rows_than_tokens_load_save_and_decode(tmp_path: Path) -> None:
    """Rows are padded to a round number: LLaDA has 126,464 for 126,349 tokens."""
    lm = unmask.load(tiny.write_checkpoint(tmp_path / "padded", vocab_size=300, embedding_size=320), device="cpu")
    assert len(lm.tokenizer) == 262 and lm.model(tokens()).logits.shape[-1] == 320
    with torch.no_grad():  # the last rows are the likeliest of all
        lm.model.head.weight.zero_()
        lm.model.head.weight[310] = 1.0
        lm.model.trunk.norm.weight.fill_(1.0)
    out = lm.generate("red", max_new_tokens=4, steps=2)[0]
    assert isinstance(out.text, str)
    lm.save(tmp_path / "saved")
    assert torch.equal(load_model(tmp_path / "saved").head.weight, lm.model.head.weight)


def test_tokens_added_within_the_spare_rows_load(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, vocab_size=300, embedding_size=300)
    lm = unmask.load(folder, device="cpu")
    lm.tokenizer.add_tokens(["<table>", "<row>"])
    lm.save(tmp_path / "more")
    again = unmask.load(tmp_path / "more", device="cpu")
    assert again.tokenizer("<table>")["input_ids"] == [262] and len(again.tokenizer) == 264


def test_tokens_added_beyond_the_rows_are_refused(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path)
    lm = unmask.load(folder, device="cpu")
    lm.tokenizer.add_tokens([f"<{number}>" for number in range(3)])
    lm.tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="tokenizer has 265 ids, the model only 264 rows. They do not belong together"):
        unmask.load(folder, device="cpu")


def test_fewer_rows_than_the_configuration_says(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path)
    tensors = {name: value[:263].clone() if len(value) == 264 else value for name, value in load(folder).items()}
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"has shape \[263, 32\], config.json asks for \[264, 32\]"):
        load_model(folder)


def load(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in load_file(folder / WEIGHTS).items()}


def test_a_tokenizer_without_a_mask_token(tmp_path: Path) -> None:
    folder = reconfigured(tiny.write_checkpoint(tmp_path), mask_token_id=...)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / name).read_text().replace("<|mdm_mask|>", "<|other|>"))
    unset = json.loads((folder / "tokenizer_config.json").read_text())
    unset.pop("mask_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(unset))
    with pytest.raises(ModelError, match="the tokenizer has no mask token.*Add mask_token_id to config.json"):
        unmask.load(folder, device="cpu")
    lm = unmask.load(reconfigured(folder, mask_token_id=0), device="cpu")
    assert lm.tokenizer.mask_token == "<|other|>"
    assert lm.infill("red [MASK] blue")[0].text.startswith("red ")
