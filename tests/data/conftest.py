"""Two small tokenizers made on the spot: one token per byte, and a byte-pair encoding with merges."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|header|>", "<|/header|>", "<|user|>", "<|bot|>", "<|mask|>"]
TEXT = "the answer is forty two. hello there, how are you? \n\n think about it: one two three. user assistant system "


@functools.cache
def _backend(merges: bool) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(alphabet) + len(SPECIAL) + (200 if merges else 0)
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=special, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return tokenizer.to_str()


def make_tokenizer(template: str | None = None, *, merges: bool = False) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(merges)),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        mask_token="<|mask|>",
        chat_template=template,
    )


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """One token per byte; ChatML."""
    return make_tokenizer(CHATML)


@pytest.fixture(scope="session")
def bpe_tokenizer() -> Any:
    """Byte pairs, some of them glued over spaces; ChatML."""
    return make_tokenizer(CHATML, merges=True)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write text, bytes, or rows as JSON lines, to a file of that name."""

    def write_file(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file
