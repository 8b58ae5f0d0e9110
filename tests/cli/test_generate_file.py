"""`unmask generate --input FILE --output FILE` on a tiny model with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tiny import write_checkpoint
from unmask.cli.main import main
from unmask.lm import load

SHORT = ("--max_new_tokens", "6", "--steps", "3", "--block_size", "6")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"prompt": "ab", "id": 1}\n{"prompt": "c"}\n{"messages": []}\n')
    Path("good.jsonl").write_text('{"prompt": "ab", "id": 1}\n{"prompt": "c"}\n')

    def call(*argv: str) -> SimpleNamespace:
        code = main(["generate", "--model_name_or_path", model, *SHORT, *argv])
        told = capsys.readouterr()
        return SimpleNamespace(code=code, out=told.out, err=told.err)

    return call


def test_rows_of_a_file(model: str, run: Any) -> None:
    result = run("--input", "good.jsonl", "--output", "out.jsonl", "--seed", "3", "--temperature", "1")
    assert result.code == 0 and result.out == ""
    assert "2 of 2 rows" in result.err and "s left" in result.err and "out.jsonl is complete: 2 rows" in result.err
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    lm = load(model, device="cpu")
    for number, row in enumerate(rows):
        settings = {"max_new_tokens": 6, "steps": 3, "block_size": 6, "temperature": 1.0}
        assert row["text"] == lm.generate(row["prompt"], **settings, seed=3 + number)[0].text
    assert rows[0]["id"] == 1
    again = run("--input", "good.jsonl", "--output", "out.jsonl", "--seed", "3", "--temperature", "1")
    assert again.code == 0 and "nothing was left to do" in again.err


def test_figures_as_json(run: Any) -> None:
    result = run("--input", "in.jsonl", "--output", "out.jsonl", "--skip_bad_rows", "--json")
    figures = json.loads(result.out)
    assert (figures["complete"], figures["rows"], figures["generated"], figures["missing"]) == (True, 2, 2, 0)
    assert "1 of 3 rows skipped" in result.err


def test_each_process_does_its_share(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, phrase in ((1, ""), (0, "out.jsonl is complete")):
        monkeypatch.setenv("RANK", str(rank))
        result = run("--input", "good.jsonl", "--output", "out.jsonl")
        assert result.code == 0 and phrase in result.err
        assert bool(rank) == (result.err == "")
    assert len(Path("out.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        (["--input", "in.jsonl"], "--input needs --output"),
        (["--output", "out.jsonl", "hi"], "--output is for the results of --input"),
        (["--input", "in.jsonl", "--output", "o", "hi"], "--input and a prompt are both given"),
        (["--input", "in.jsonl", "--output", "o", "--messages", "[]"], "--input and --messages are both given"),
        (["--input", "in.jsonl", "--output", "o", "--trace", "t.json"], "--input and --trace are both given"),
        (["--input", "in.jsonl", "--output", "o", "--show"], "--show shows single prompts"),
        (["--input", "in.jsonl", "--output", "./in.jsonl"], "--input and --output are one file"),
        (["--input", "in.jsonl", "--output", "o", "--batch_size", "0"], "--batch_size is 0; it must be at least 1"),
        (["--input", "none.jsonl", "--output", "o"], "none.jsonl: there is no such file"),
        (["--input", "in.jsonl", "--output", "o"], 'in.jsonl:3 "messages" is empty'),
        (["--input", "in.jsonl", "--output", "o", "--max_length", "9"], "Give one of them"),
        (["--input", "good.jsonl", "--output", "in.jsonl"], "in.jsonl exists and was not written by a run"),
    ],
)
def test_mistakes(run: Any, argv: list[str], phrase: str) -> None:
    before = sorted(path.name for path in Path().iterdir())
    result = run(*argv)
    assert result.code == 2 and phrase in result.err and result.out == ""
    assert sorted(path.name for path in Path().iterdir()) == before


def test_fresh_is_for_one_process(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = run("--input", "good.jsonl", "--output", "out.jsonl", "--fresh")
    assert result.code == 2 and "--fresh works in one process only" in result.err
