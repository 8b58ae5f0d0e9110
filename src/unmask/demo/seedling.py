"""What the demo starts from: data files, a tokenizer learned from them, a model that is only a configuration."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from unmask.data.table_questions import Kind, MessageOptions, message_records
from unmask.data.tables import TableOptions, fact_records, text_records
from unmask.models.families.llada import FAMILY

EOT, HEADER = "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")
SPECIAL = (FAMILY.eos_token, FAMILY.bos_token, "<|pad|>", EOT, *HEADER, FAMILY.mask_token)


@dataclass(frozen=True)
class Size:
    """How much of everything; the defaults train in a few minutes on two cores.

    Attributes:
        texts, facts, questions: rows of the training files; test_rows: of each test file.
        vocab_size: of the tokenizer, at most.
        width, layers, heads, mlp_width, positions: of the model.
    """

    texts: int = 6000
    facts: int = 2000
    questions: int = 6000
    test_rows: int = 96
    vocab_size: int = 2048
    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_width: int = 352
    positions: int = 256


@dataclass(frozen=True)
class DataFiles:
    """The demo's data: texts to pretrain on, questions to fine-tune on, and tables that neither holds."""

    texts: Path
    texts_test: Path
    questions: Path
    questions_test: Path


# Small tables about few things: the model is small too, and has minutes.
TOPICS = ("people", "cities", "animals", "products")
KINDS: tuple[Kind, ...] = ("look-up", "comparison", "superlative", "verification")


def write_data(folder: Path, size: Size, seed: int) -> DataFiles:
    """Write four files of JSON lines; train and test share no table."""
    texts = TableOptions(seed=seed, rows=(1, 2), columns=(1, 3), topics=TOPICS)
    tables = TableOptions(seed=seed, rows=(1, 2), columns=(1, 2), topics=TOPICS)
    questions = MessageOptions(kinds=KINDS, per_table=2)
    return DataFiles(
        texts=_write(folder / "texts.jsonl", [*text_records(texts, size.texts), *fact_records(size.facts, seed=seed)]),
        texts_test=_write(folder / "texts_test.jsonl", text_records(texts, size.test_rows, split="test")),
        questions=_write(folder / "questions.jsonl", message_records(tables, size.questions, questions=questions)),
        questions_test=_write(
            folder / "questions_test.jsonl",
            message_records(tables, size.test_rows, split="test", questions=questions),
        ),
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def train_tokenizer(data: DataFiles, size: Size) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of the training files' words, with LLaDA's special tokens and chat template."""
    tokenizer = Tokenizer(models.BPE())
    # digits one by one: numbers are spelled, not remembered
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_all_text(data), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=FAMILY.eos_token,
        bos_token=FAMILY.bos_token,
        pad_token="<|pad|>",
        mask_token=FAMILY.mask_token,
        additional_special_tokens=[EOT, *HEADER],
        chat_template=FAMILY.chat_template,
        model_max_length=size.positions,
        clean_up_tokenization_spaces=False,
    )


def write_base(folder: Path, tokenizer: PreTrainedTokenizerBase, size: Size) -> None:
    """A checkpoint without weights: LLaDA's own `config.json`, and the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    config = {
        "model_type": FAMILY.model_type,
        "architectures": [FAMILY.architecture],
        "activation_type": "silu",
        "block_type": "llama",
        "d_model": size.width,
        "embedding_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "include_bias": False,
        "init_fn": "mitchell",
        "layer_norm_type": "rms",
        "mask_token_id": tokenizer.mask_token_id,
        "max_sequence_length": size.positions,
        "mlp_hidden_size": size.mlp_width,
        "n_heads": size.heads,
        "n_kv_heads": size.heads,
        "n_layers": size.layers,
        "pad_token_id": tokenizer.pad_token_id,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 10000.0,
        "vocab_size": len(tokenizer),
        "weight_tying": False,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def documents(tokenizer: PreTrainedTokenizerBase, path: Path) -> list[list[int]]:
    """The texts of a file as ids, each with the end token behind it, as pretraining sees them."""
    texts = [row["text"] for row in read_rows(path)]
    end = cast(int, tokenizer.eos_token_id)
    return [[*tokenizer(text)["input_ids"], end] for text in texts]


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def _all_text(data: DataFiles) -> Iterable[str]:
    yield from (row["text"] for row in read_rows(data.texts))
    for row in read_rows(data.questions):
        yield from (message["content"] for message in row["messages"])
