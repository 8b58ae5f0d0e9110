"""Every format holds every kind of record: the same conversations, texts and tokens come out of each."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from unmask.data.build import build_pretrain, build_sft
from unmask.training.arguments import DataArguments

Rows = list[dict[str, Any]]
Saved = Callable[[Path, Rows], str]

# Three conversations that every shape can hold: s1K's adds a request for a format and marks reasoning and answer.
ASK = "Respond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>"
THREE = [
    ("what is 1 + 1?", "one and one", "2"),
    ('a "quoted", comma\nand a line', "it's a trap", 'say "no"\tor tab'),
    ("谁写了《红楼梦》? é \U0001f600", "想一想", "曹雪芹"),
]


def _user(question: str) -> str:
    return f"{ASK}\n\n{question}"


def _answer(thought: str, answer: str) -> str:
    return f"<reasoning>{thought}</reasoning>\n<answer>{answer}</answer>"


RECORDS: dict[str, Callable[[str, str, str], dict[str, Any]]] = {
    "messages": lambda q, t, a: {
        "messages": [{"role": "user", "content": _user(q)}, {"role": "assistant", "content": _answer(t, a)}]
    },
    "sharegpt": lambda q, t, a: {
        "conversations": [{"from": "human", "value": _user(q)}, {"from": "gpt", "value": _answer(t, a)}]
    },
    "alpaca": lambda q, t, a: {"instruction": ASK, "input": q, "output": _answer(t, a)},
    "input_output": lambda q, t, a: {"input": _user(q), "output": _answer(t, a)},
    "user_assistant": lambda q, t, a: {"user": _user(q), "assistant": _answer(t, a)},
    "question_answer": lambda q, t, a: {"question": _user(q), "answer": _answer(t, a)},
    "s1K": lambda q, t, a: {"question": q, "thinking_trajectories": [t, "another"], "attempt": a, "solution": "x"},
}


def _lines(rows: Rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv(rows: Rows) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(
        {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()} for row in rows
    )
    return text.getvalue().encode()


def _tsv(rows: Rows) -> bytes:
    cells = [[json.dumps(v) if isinstance(v, list) else str(v) for v in row.values()] for row in rows]
    return "\n".join("\t".join(row) for row in [list(rows[0]), *cells]).encode()


def _file(name: str, content: Callable[[Rows], bytes]) -> Saved:
    def save(folder: Path, rows: Rows) -> str:
        (folder / name).write_bytes(content(rows))
        return str(folder / name)

    return save


def _arrow(folder: Path, rows: Rows) -> str:
    Dataset.from_list(rows).save_to_disk(folder / "saved")
    return str(folder / "saved")


def _arrow_dict(folder: Path, rows: Rows) -> str:
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(folder / "saved")
    return str(folder / "saved")


def _parquet(folder: Path, rows: Rows) -> str:
    Dataset.from_list(rows).to_parquet(folder / "a.parquet")
    return str(folder / "a.parquet")


def _folder(folder: Path, rows: Rows) -> str:
    for index, row in enumerate(rows):
        (folder / f"part-{index}.json.gz").write_bytes(gzip.compress(_lines([row]).encode()))
    (folder / "dataset_infos.json").write_text('{"default": {"features": {}}}')
    (folder / "README.md").write_text("about")
    return str(folder)


def _glob(folder: Path, rows: Rows) -> str:
    _folder(folder, rows)
    return f"{folder}/part-*.json.gz"


FORMATS: dict[str, Saved] = {
    "json": _file("a.json", lambda rows: json.dumps(rows).encode()),
    "json indented": _file("a.json", lambda rows: json.dumps(rows, indent=4, ensure_ascii=False).encode()),
    "json.gz": _file("a.json.gz", lambda rows: gzip.compress(json.dumps(rows).encode())),
    "jsonl": _file("a.jsonl", lambda rows: _lines(rows).encode()),
    "jsonl of Windows": _file("a.jsonl", lambda rows: _lines(rows).replace("\n", "\r\n").encode("utf-8-sig")),
    "jsonl.gz": _file("a.jsonl.gz", lambda rows: gzip.compress(_lines(rows).encode())),
    "csv": _file("a.csv", _csv),
    "csv of Windows": _file("a.csv", lambda rows: b"\xef\xbb\xbf" + _csv(rows)),
    "csv.gz": _file("a.csv.gz", lambda rows: gzip.compress(_csv(rows))),
    "parquet": _parquet,
    "arrow": _arrow,
    "arrow of splits": _arrow_dict,
    "folder of json.gz": _folder,
    "glob": _glob,
}


def _settings(path: str, **options: Any) -> DataArguments:
    return DataArguments(path, max_length=2048, **options)


def _pairs(formats: dict[str, Saved], records: Any) -> list[Any]:
    """Every combination; those that a shorter run leaves out still meet each format and each record."""
    kinds, names = list(formats), list(records)
    return [
        pytest.param(kind, name, marks=[] if (k + r) % 3 == 0 else [pytest.mark.long])
        for k, kind in enumerate(kinds)
        for r, name in enumerate(names)
    ]


@pytest.mark.parametrize(("kind", "record"), _pairs(FORMATS, RECORDS))
def test_the_same_conversations_from_everywhere(tmp_path: Path, byte_tokenizer: Any, kind: str, record: str) -> None:
    path = FORMATS[kind](tmp_path, [{**RECORDS[record](*three), "id": "7"} for three in THREE])
    splits = build_sft(_settings(path), byte_tokenizer)
    for row, (question, thought, answer) in zip(splits.train, THREE, strict=True):
        asked = f"<|im_start|>user\n{_user(question)}<|im_end|>\n<|im_start|>assistant\n"
        learned = f"{_answer(thought, answer)}<|im_end|>"
        whole = byte_tokenizer(f"{asked}{learned}", add_special_tokens=False)["input_ids"]
        assert row["input_ids"] == whole
        flagged = [token for token, flag in zip(whole, row["may_noise"], strict=True) if flag]
        assert byte_tokenizer.decode(flagged) == learned
    stream = build_sft(_settings(path, streaming=True), byte_tokenizer)
    assert list(stream.train) == list(splits.train)


@pytest.mark.parametrize("record", ["messages", "sharegpt"])
def test_tab_separated_lists(tmp_path: Path, byte_tokenizer: Any, record: str) -> None:
    rows = [RECORDS[record](*three) for three in THREE]
    (tmp_path / "a.tsv").write_bytes(_tsv(rows))
    (tmp_path / "a.jsonl").write_text(_lines(rows))
    found = [build_sft(_settings(str(tmp_path / name)), byte_tokenizer).train[:] for name in ("a.tsv", "a.jsonl")]
    assert found[0] == found[1]


TEXTS = ['one "two",\nthree', "vier\tfünf", "六 七 \U0001f600"]
TEXT_FORMATS = FORMATS | {
    "txt": _file("a.txt", lambda rows: "\n<|endoftext|>\n".join(row["text"] for row in rows).encode()),
    "txt.gz": _file("a.txt.gz", lambda rows: gzip.compress("<|endoftext|>".join(r["text"] for r in rows).encode())),
}


@pytest.mark.parametrize("kind", TEXT_FORMATS)
def test_the_same_texts_from_everywhere(tmp_path: Path, byte_tokenizer: Any, kind: str) -> None:
    path = TEXT_FORMATS[kind](tmp_path, [{"url": "u", "text": text} for text in TEXTS])
    options: dict[str, Any] = {"max_length": 8, "drop_tail": False}
    found = [build_pretrain(DataArguments(path, streaming=flag, **options), byte_tokenizer).train for flag in (0, 1)]
    ends = byte_tokenizer.eos_token_id
    stream = [token for text in TEXTS for token in [*byte_tokenizer(text)["input_ids"], ends]]
    for rows in found:
        assert [token for row in rows for token in row["input_ids"]] == stream


# Rows of tokens

IDS = [[15, 16, 17, 18], [20, 21, 22], [30, 31, 32, 33, 34]]
STARTS = [2, 1, 3]
TOKENS: dict[str, Callable[[list[int], int], dict[str, Any]]] = {
    "labels": lambda ids, start: {"labels": [-100] * start + ids[start:]},
    "prompt_len": lambda ids, start: {"prompt_len": start},
    "may_noise": lambda ids, start: {"may_noise": [place >= start for place in range(len(ids))]},
}
TOKEN_FORMATS = {name: FORMATS[name] for name in ("json", "jsonl", "jsonl.gz", "parquet", "arrow", "folder of json.gz")}


@pytest.mark.parametrize(("kind", "record"), _pairs(TOKEN_FORMATS, TOKENS))
def test_the_same_tokens_from_everywhere(tmp_path: Path, byte_tokenizer: Any, kind: str, record: str) -> None:
    rows = [
        {"input_ids": ids, **TOKENS[record](ids, start), "attention_mask": [1] * len(ids)}
        for ids, start in zip(IDS, STARTS, strict=True)
    ]
    path = TOKEN_FORMATS[kind](tmp_path, rows)
    expected = [
        {"input_ids": ids, "may_noise": [place >= start for place in range(len(ids))]}
        for ids, start in zip(IDS, STARTS, strict=True)
    ]
    for options in ({}, {"load_preprocessed_data": True}, {"streaming": True}):
        assert list(build_sft(_settings(path, **options), byte_tokenizer).train) == expected
    rows = build_pretrain(_settings(path, load_preprocessed_data=True), byte_tokenizer).train
    assert [row["input_ids"] for row in rows] == IDS


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
def test_rows_of_tokens_in_numpy_files(tmp_path: Path, byte_tokenizer: Any, dtype: Any) -> None:
    # The layout of a converter of Mistral models: every row filled up with end tokens, which are learned.
    end = byte_tokenizer.eos_token_id
    filled = [ids + [end] * (6 - len(ids)) for ids in IDS]
    np.save(tmp_path / "input_ids.npy", np.array(filled, dtype))
    np.save(tmp_path / "prompt_lengths.npy", np.array(STARTS, np.int32))
    expected = [
        {"input_ids": ids, "may_noise": [place >= start for place in range(6)]}
        for ids, start in zip(filled, STARTS, strict=True)
    ]
    for path in (tmp_path, tmp_path / "input_ids.npy"):
        for options in ({}, {"streaming": True}, {"load_preprocessed_data": True}):
            assert list(build_sft(_settings(str(path), **options), byte_tokenizer).train) == expected
    divided = build_sft(_settings(f"{tmp_path}[test:1]"), byte_tokenizer)
    assert sorted(row["input_ids"] for part in (divided.train, divided.test) for row in part) == sorted(filled)


def test_numpy_rows_of_a_corpus_may_lie_in_several_files(tmp_path: Path, byte_tokenizer: Any) -> None:
    for index in range(2):
        np.save(tmp_path / f"rows-{index}.npy", np.array([[15 + index] * 4] * 3, np.int32))
    for path in (str(tmp_path), f"{tmp_path}/rows-*.npy"):
        rows = build_pretrain(DataArguments(path, max_length=4), byte_tokenizer).train
        assert [row["input_ids"] for row in rows] == [[15] * 4] * 3 + [[16] * 4] * 3
        assert {tuple(row["document"]) for row in rows} == {(0, 0, 0, 0)}
