"""What the base begins as: its tokenizer and its configuration. Its first weights are in `heads.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from unmask.data.examples import example_rows
from unmask.data.table_topics import TOPICS, Category
from unmask.models.families.llada import FAMILY

VOCAB_SIZE = 2048
POSITIONS = 1024
# few of the rotary pairs turn fast: those tell neighbours apart, the others can compare words at any distance
ROPE_THETA = 100_000.0
USER, ASSISTANT, SYSTEM, EOT, PAD = "<|user|>", "<|assistant|>", "<|system|>", "<|eot|>", "<|pad|>"
# A word and the space before it are one token, in a cell as in a sentence, so that a value is the same wherever it
# stands; numbers up to 999 are one token too.
_PIECES = Regex(r" ?\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s")
# An answer begins with a space: its first word is then the token that stands in the cell.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|> ' + message['content'] + '<|eot|>' }}"
    "{% else %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer of the generator's words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[FAMILY.eos_token, FAMILY.bos_token, PAD, _mask(), USER, ASSISTANT, SYSTEM, EOT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=FAMILY.eos_token,
        bos_token=FAMILY.bos_token,
        pad_token=PAD,
        mask_token=_mask(),
        additional_special_tokens=[USER, ASSISTANT, SYSTEM, EOT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)


def write_configuration(folder: Path) -> None:
    """LLaDA's own `config.json`. Head and embedding are one matrix: a model that reads tables mostly copies."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    config = {
        "model_type": FAMILY.model_type,
        "architectures": [FAMILY.architecture],
        "activation_type": "silu",
        "block_type": "llama",
        "d_model": 128,
        "embedding_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "include_bias": False,
        "init_fn": "mitchell",
        "layer_norm_type": "rms",
        "mask_token_id": tokenizer.mask_token_id,
        "max_sequence_length": POSITIONS,
        "mlp_hidden_size": 352,
        "n_heads": 8,
        "n_kv_heads": 8,
        "n_layers": 6,
        "pad_token_id": tokenizer.pad_token_id,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": ROPE_THETA,
        "vocab_size": len(tokenizer),
        "weight_tying": True,
    }
    (folder / "config.json").write_text(f"{json.dumps(config, indent=2)}\n", "utf-8")


def _mask() -> AddedToken:
    # "lies in [MASK]." reads like "lies in Norway.": the space belongs to the word
    return AddedToken(FAMILY.mask_token, special=True, lstrip=True, normalized=False)


def _texts() -> Iterator[str]:
    """Enough of the generator for its words, questions included, and every word and number of a cell once more."""
    for row in islice(example_rows("text", name="", count=4000, seed=0, split="train"), 4000):
        yield row["text"]
    for row in example_rows("tables", name="", count=4000, seed=0, split="train"):
        yield from (f" {message['content']}" for message in row["messages"])
    for topic in TOPICS:
        yield from (f" {word}" for key in topic.keys for word in [key] * 20)
        for column in topic.columns:
            if isinstance(column, Category):
                yield from (f" {word}" for value in column.values for word in [value] * 20)
    for _ in range(3):
        yield from (f" {number}" for number in range(1000))
