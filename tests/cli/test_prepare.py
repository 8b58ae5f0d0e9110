"""`unmask prepare` as it is typed: what it writes and says, and that mistakes end in one sentence and exit code 2."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from unmask.cli.main import main

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs `unmask prepare` in an empty folder: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, str, str]:
        code = main(["prepare", "--model_name_or_path", str(checkpoint), *argv])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def _talks(file: Path, count: int = 9) -> None:
    rows = [{"user": f"question {number}", "assistant": f"answer {number}"} for number in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("to", ["arrow", "jsonl", "npy"])
def test_a_folder_is_made_and_trained_from(say: Say, tmp_path: Path, to: str) -> None:
    _talks(tmp_path / "a.jsonl")
    options = ("--dataset_args", "a.jsonl[test:2]", "--mode", "sft", "--output_dir", "out", "--to", to)
    code, told, _ = say(*options, "--max_length", "96")
    assert code == 0 and "first row (" in told and "answer" in told
    assert "train: 7 rows, " in told and "test: 2 rows, " in told
    assert "saved out; train with: unmask sft --dataset_args out --load_preprocessed_data true --max_length 96" in told
    code, told, _ = say(*options, "--max_length", "96")
    assert code == 0 and "out holds just this already and is kept" in told
    code, _, problem = say(*options, "--max_length", "80")
    assert code == 2 and "out holds other prepared data (max_length: 96 -> 80)" in problem
    code, _, _ = say(*options, "--max_length", "80", "--process_data")
    assert code == 0


def test_json(say: Say, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 100)
    options = ("--dataset_args", "a.txt", "--mode", "pretrain", "--max_length", "16", "--overlap", "4", "--json")
    told = json.loads(say(*options, "--dry_run")[1])
    # 101 tokens with the end token; a row every 12 of them.
    assert told["counts"] == {"train": {"rows": 8, "tokens": 128}} and told["folder"] is None
    assert not (tmp_path / "out").exists()
    told = json.loads(say(*options, "--output_dir", "out")[1])
    assert (told["folder"], told["to"], told["kept"]) == ("out", "arrow", False) and told["seconds"] > 0


def test_options_of_the_other_mode_are_noted(say: Say, tmp_path: Path) -> None:
    _talks(tmp_path / "a.jsonl")
    code, _, notes = say("--dataset_args", "a.jsonl", "--mode", "sft", "--dry_run", "--overlap", "3")
    assert code == 0 and "note: overlap has no effect with --mode sft" in notes


def test_tables_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    double = ModuleType("unmask.cli.prepare_tables")
    double.run = lambda argv: given.append(argv) or 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unmask.cli.prepare_tables", double)
    assert main(["prepare", "tables", "--x", "y"]) == 0 and given == [["--x", "y"]]


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        ([], "no data is named. Give --dataset_args"),
        (["--dataset_args", "a.jsonl"], "Give --mode pretrain, or --mode sft for conversations"),
        (["--dataset_args", "a.jsonl", "--mode", "sft"], "no output folder is named"),
        (["--dataset_args", "a.jsonl", "--mode", "sfft"], '"sfft" is not one of pretrain, sft'),
        (
            ["--dataset_args", "a.jsonl", "--mode", "sft", "--dry_run", "--to", "csv"],
            '"csv" is not one of arrow, jsonl, npy',
        ),
        (["--dataset_args", "a.jsonl", "--mode", "sft", "--dry_run", "--max_length", "0"], "--max_length must be >= 1"),
        (["--datset_args", "a.jsonl"], 'Did you mean "--dataset_args"?'),
        (["--dataset_args", "b.jsonl", "--mode", "sft", "--dry_run"], 'no file, folder or match for "b.jsonl".'),
        (
            ["--dataset_args", "a.jsonl", "--mode", "pretrain", "--dry_run", "--overlap", "2000"],
            "overlap must be from 0 to max_length - 1",
        ),
    ],
)
def test_mistakes(say: Say, tmp_path: Path, argv: list[str], phrase: str) -> None:
    _talks(tmp_path / "a.jsonl")
    code, told, problem = say(*argv)
    assert code == 2 and phrase in problem and not told
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_model_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--dataset_args", "a.jsonl"]) == 2
    assert "no model is named, whose tokenizer is needed" in capsys.readouterr().err


GOOD = b'{"user": "q", "assistant": "a"}\n'
SPOILED: dict[str, tuple[Any, str]] = {
    "syntax.jsonl": (GOOD + b'{"user": "q\n' + GOOD, "syntax.jsonl:2:10 invalid JSON: unterminated string"),
    "array.jsonl": (GOOD + b"[1, 2]\n", "array.jsonl:2 expected an object, got array"),
    "key.jsonl": (GOOD + b'{"user": "q", "asistant": "a"}\n', 'key.jsonl:2 no "text" or "messages" key'),
    "type.jsonl": (GOOD + b'{"user": 5, "assistant": "a"}\n', 'type.jsonl:2 "user" must be a string, got number 5'),
    "null.jsonl": (GOOD + b'{"user": null, "assistant": "a"}\n', 'null.jsonl:2 "user" must be a string, got null'),
    "latin.jsonl": (GOOD + b'{"user": "caf\xe9", "assistant": "a"}\n', "latin.jsonl:2 byte 14: not valid UTF-8 (0xe9)"),
    "surrogate.jsonl": (GOOD + b'{"user": "\\ud800", "assistant": "a"}\n', "surrogate.jsonl:2 "),
    "cut.jsonl": (GOOD + b'{"user": "q", "ass', "cut.jsonl:2 ends in the middle of a record"),
    "turn.jsonl": (GOOD + b'{"messages": [{"role": "user", "content": "q"}]}\n', "turn.jsonl:2 no assistant turn"),
    "empty.jsonl": (b"", "empty.jsonl holds 0 records"),
    "blank.jsonl": (b"\n\n \n", "blank.jsonl holds 0 records"),
    "cut.jsonl.gz": (gzip.compress(GOOD * 500)[:-12], "cut.jsonl.gz:"),
    "plain.jsonl.gz": (GOOD, "plain.jsonl.gz is named .gz but is not gzip data"),
    "cut.parquet": (b"PAR1" + b"\0" * 50, "cut.parquet cannot be read as Parquet"),
    "cells.csv": (b"user,assistant\nq,a\nq\n", "cells.csv:3 has 1 cells, but the header has 2"),
    "quote.csv": (b'user,assistant\nq,a\n"q,a\n', "quote.csv:3 ends in the middle of a quoted cell"),
    "flat.npy": (np.zeros(4, np.int32), "flat.npy holds int32 [4]; expected whole numbers (int32)"),
    "real.npy": (np.zeros((2, 4)), "real.npy holds float64 [2, 4]; expected whole numbers (int32)"),
    "what.docx": (b"x", "what.docx is no file that can be read; allowed: .json"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_bad_data_is_named_with_its_place(say: Say, tmp_path: Path, name: str) -> None:
    content, phrase = SPOILED[name]
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content)
    code, told, problem = say("--dataset_args", name, "--mode", "sft", "--output_dir", "out")
    assert code == 2 and not told and "Traceback" not in problem
    assert problem.startswith("unmask: ") and phrase in problem and problem.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_nothing(say: Say, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    Dataset.from_dict({"user": [], "assistant": []}).save_to_disk(tmp_path / "saved")
    for name, phrase in {"empty": "empty holds no data: expected files", "saved": "saved holds 0 records"}.items():
        code, _, problem = say("--dataset_args", name, "--mode", "sft", "--dry_run")
        assert code == 2 and phrase in problem


def test_skipped_rows_are_counted(say: Say, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes((GOOD + b"null\n") * 6 + GOOD)
    code, told, _ = say("--dataset_args", "a.jsonl", "--mode", "sft", "--dry_run", "--skip_bad_rows")
    assert code == 0 and "a.jsonl: 6 of 13 rows skipped: a.jsonl:2 expected an object, got null; " in told
    assert "train: 7 rows" in told
