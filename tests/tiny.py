"""Stand-ins made by the tests: a tokenizer of bytes, a LLaDA of a few thousand weights, rows to train it on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from unmask.models.checkpoints import load_model, save_model
from unmask.models.families.llada import FAMILY
from unmask.registry import FAMILIES

SPECIAL = ("<|mdm_mask|>", "<|endoftext|>", "<|eot_id|>", "<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>")


def write_tokenizer(folder: Path) -> None:
    """A tokenizer with one id per byte and LLaDA's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    dressed = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        mask_token="<|mdm_mask|>",
        eos_token="<|endoftext|>",
        bos_token="<|startoftext|>",
        additional_special_tokens=list(SPECIAL[2:]),
    )
    dressed.save_pretrained(folder)


def write_config(folder: Path, **changes: Any) -> None:
    """The configuration of a tiny LLaDA that fits the tokenizer."""
    size = {"vocab_size": 264, "embedding_size": 264, "mask_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = {**FAMILY.tiny_config, **size, "max_sequence_length": 256, **changes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def write_checkpoint(folder: Path, *, weights: bool = True, **changes: Any) -> Path:
    """A checkpoint folder, without weights if so asked."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    write_config(folder, **changes)
    if weights:
        save_model(load_model(folder, from_scratch=True, seed=1), folder)
    return folder


def write_left_to_right(folder: Path) -> Path:
    """The checkpoint folder of an autoregressive model with the same tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    config = {**FAMILIES.get("llama").tiny_config, "vocab_size": 264, "eos_token_id": 1, "pad_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_model(load_model(folder, from_scratch=True, seed=1), folder)
    return folder


def write_conversations(path: Path, rows: int = 40, seed: int = 0) -> Path:
    """Questions and answers of varied length, as `messages` JSONL."""
    chance = random.Random(seed)
    lines = []
    for _ in range(rows):
        asked = " ".join(chance.choice(("red", "blue", "cat", "dog")) for _ in range(chance.randint(1, 6)))
        answer = " ".join(reversed(asked.split()))
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": turns}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_texts(path: Path, rows: int = 60, seed: int = 0) -> Path:
    """Short documents, as `text` JSONL."""
    chance = random.Random(seed)
    words = ("sun", "moon", "sea", "hill", "tree")
    texts = [" ".join(chance.choice(words) for _ in range(chance.randint(3, 30))) for _ in range(rows)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path
