"""Real files load, and hold as many rows as the notes beside them say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unmask.data.sources import Reading, load_records
from unmask.data.spec import parse_dataset_args
from unmask.errors import DataError

CONVERSATIONS = {
    "alpaca_en/alpaca_data.first12000.json": 12_000,
    "alpaca_en/alpaca_en_demo.gpt4.982rows.json": 982,
    "alpaca_zh/alpaca_zh_demo.first900.json": 900,
    "alpaca_zh/zh-data-part-00.json": 10_021,
    "chat_llamafactory/glaive_toolcall_en_demo.json": 300,
    "chat_llamafactory/glaive_toolcall_zh_demo.json": 300,
    "chat_llamafactory/identity.json": 91,
    "chat_llamafactory/kto_en_demo.json": 300,
    "chat_llamafactory/v1_sft_demo.jsonl": 500,
    "chat_mt_bench/dummy_conversation.json": 500,
    "gsm8k/train.jsonl": 7_473,
    "gsm8k/test.first200.jsonl": 200,
    "table_sft_sample/table_messages_120.jsonl": 120,
}
# file, column -> rows
TEXTS = {
    ("text_c4/c4_sample.first900.jsonl", "text"): 900,
    ("text_c4/c4_demo.jsonl", "text"): 300,
    ("text_tinystories/tinystories_sample.first2000.txt", "text"): 2_000,
    ("text_tinystories/tinystories_lower_tail.txt", "text"): 1,
    ("wikitablequestions/data/training.tsv", "utterance"): 14_152,
    ("wikitablequestions/data/pristine-seen-tables.tsv", "utterance"): 3_537,
    ("wikitablequestions/data/random-split-1-dev.tsv", "utterance"): 2_831,
}


def _load(path: Path, reading: Reading) -> Any:
    (spec,) = parse_dataset_args(str(path))
    return load_records(spec, reading)


@pytest.mark.parametrize(("file", "rows"), CONVERSATIONS.items(), ids=list(CONVERSATIONS))
def test_conversations(shared: Path, file: str, rows: int) -> None:
    records = _load(shared / "data" / file, Reading("conversation"))
    assert (len(records.train), records.notes) == (rows, [])
    assert records.train[rows - 1]["messages"][-1]["role"] == "assistant"


@pytest.mark.parametrize(("named", "rows"), TEXTS.items(), ids=[file for file, _ in TEXTS])
def test_texts(shared: Path, named: tuple[str, str], rows: int) -> None:
    records = _load(shared / "data" / named[0], Reading("text", named[1]))
    assert (len(records.train), records.notes) == (rows, [])


def test_cells_of_real_tables_are_what_the_file_says(shared: Path) -> None:
    file = shared / "data/wikitablequestions/data/training.tsv"
    answers = [line.split("\t")[3] for line in file.read_text("utf-8").split("\n")[1:-1]]
    assert _load(file, Reading("text", "targetValue")).train["text"][:] == answers
    assert '"Episode Ten"' in answers


def test_the_first_of_a_real_file_is_what_it_says(shared: Path) -> None:
    records = _load(shared / "data/gsm8k/train.jsonl", Reading("conversation")).train
    assert records[0]["messages"][0]["content"].startswith("Natalia sold clips to 48 of her friends in April")
    assert records[0]["messages"][1]["content"].endswith("#### 72")
    tools = _load(shared / "data/chat_llamafactory/glaive_toolcall_en_demo.json", Reading("conversation")).train
    roles = {message["role"] for row in tools for message in row["messages"]}
    assert roles == {"user", "assistant", "tool"}


@pytest.mark.parametrize(
    ("file", "phrase"),
    [
        ("chat_llamafactory/dpo_en_demo.json", r"json:2 no assistant turn to learn from.*\(300 such rows, 100%\)"),
        ("chat_mt_bench/question.jsonl", r"jsonl:1 no .text. or .messages. key \(found: question_id"),
        ("tabfact/pairwise_train_pairs.json", r"json:2 expected an object, got array \(8,827 such rows, 100%\)"),
        ("tabfact/tokenized_data/val_examples.json", r"val_examples.json is one object"),
    ],
)
def test_what_is_no_conversation_is_refused(shared: Path, file: str, phrase: str) -> None:
    with pytest.raises(DataError, match=phrase):
        _load(shared / "data" / file, Reading("conversation"))
