"""`unmask prepare tables`: the file it writes, what it says, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unmask.cli.main import main
from unmask.cli.prepare_tables import run
from unmask.errors import ConfigError


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six questions about two tables."""
    folder = tmp_path / "wtq"
    (folder / "data").mkdir(parents=True)
    (folder / "csv").mkdir()
    for name in "ab":
        body = "".join(f'"{name}{number}","{number}"\n' for number in range(6))
        (folder / f"csv/{name}.csv").write_text(f'"n","x"\n{body}', encoding="utf-8")
    questions = [f"nt-{number}\thow much?\tcsv/{'ab'[number % 2]}.csv\t{number}" for number in range(6)]
    text = "\n".join(["id\tutterance\tcontext\ttargetValue", *questions])
    (folder / "data/training.tsv").write_text(text + "\n", encoding="utf-8")
    return folder


def prepare(folder: Path, output: Path, *more: str) -> int:
    return run(["wikitablequestions", "--data_dir", str(folder), "--split", "training", "--output", str(output), *more])


def test_a_corpus_becomes_conversations(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "out.jsonl"
    assert prepare(corpus, output, "--max_table_rows", "4", "--json") == 0
    written = rows(output)
    assert [row["id"] for row in written] == [f"nt-{number}" for number in range(6)]
    table = "| n | x |\n| --- | --- |\n" + "".join(f"| b{number} | {number} |\n" for number in range(4))
    assert written[1]["messages"] == [
        {"role": "user", "content": f"{table}\nhow much?"},
        {"role": "assistant", "content": "1"},
    ]
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert (summary["questions"], summary["tables"], summary["shortened"], summary["rows_left_out"]) == (6, 2, 6, 12)
    assert "6 of 6 questions are about tables that were shortened: 12 rows left out" in shown.err
    assert [path.name for path in output.parent.iterdir()] == ["out.jsonl"]


def test_a_limit_is_drawn_by_the_seed_and_keeps_the_order(corpus: Path, tmp_path: Path) -> None:
    chosen = []
    for seed in ("0", "0", "1", "2"):
        prepare(corpus, tmp_path / "out.jsonl", "--limit", "3", "--seed", seed, "--overwrite_cache")
        chosen.append([int(row["id"][3:]) for row in rows(tmp_path / "out.jsonl")])
    assert all(len(ids) == 3 and ids == sorted(ids) for ids in chosen)
    assert chosen[0] == chosen[1] and len({tuple(ids) for ids in chosen}) > 1


def test_invented_questions(tmp_path: Path) -> None:
    knobs = ["--kinds", "filter", "--rows", "3", "--columns", "2,3", "--style", "tagged", "--limit", "20"]
    parts = {}
    for split in ("train", "test"):
        assert run(["generated", "--output", str(tmp_path / f"{split}.jsonl"), "--split", split, *knobs]) == 0
        parts[split] = rows(tmp_path / f"{split}.jsonl")
    assert [len(part) for part in parts.values()] == [20, 20]
    assert not {row["table_id"] for row in parts["train"]} & {row["table_id"] for row in parts["test"]}
    for row in parts["train"]:
        asked, answered = (message["content"] for message in row["messages"])
        assert asked.startswith("[TAB] col: ") and asked.count("[SEP]") == 3
        assert asked.endswith(f"\n\n{row['question']}") and row["kind"] == "filter"
        assert ", ".join(row["answers"]) == answered and all(f"| {key} |" in asked for key in row["answers"])


def test_several_questions_of_a_table_in_one_conversation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "turns.jsonl"
    options = ("--kinds", "look-up,count", "--limit", "40", "--turns", "3", "--output", str(file))
    assert main(["prepare", "tables", "generated", *options]) == 0
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert sum(len(row["messages"]) // 2 for row in rows) == 40 > len(rows)
    assert "40 questions about" in capsys.readouterr().out
    for row in rows:
        asked, answered = (message["content"] for message in row["messages"][-2:])
        assert asked.endswith(row["question"]) and answered == ", ".join(row["answers"])


def test_help_shows_examples_and_the_knobs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "tables", "--help"]) == 0
    assert "--max_table_rows" in capsys.readouterr().out
    assert run(["generated", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--per_table" in shown and "unmask prepare tables generated" in shown and "--data_dir FOLDER" not in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no corpus is named"),
        (["tabfct", "--output", "x.jsonl"], 'Did you mean "tabfact"'),
        (["--output", "x.jsonl", "tabfact"], "the corpus comes first"),
        (["tabfact"], "--output is missing"),
        (["tabfact", "--output", "x.csv"], 'must end in .jsonl; got ".csv"'),
        (["tabfact", "--output", "x.jsonl", "--split", "val"], "--data_dir is missing"),
        (["generated", "--output", "x.jsonl", "--split", "dev"], "divided into train and test"),
        (["generated", "--output", "x.jsonl", "--kinds", "lookup"], 'Did you mean "look-up"'),
        (["generated", "--output", "x.jsonl", "--rows", "1,2,3"], "the least and the most"),
        (["generated", "--output", "x.jsonl", "--limit", "0"], "must be at least 1"),
        (["generated", "--output", "x.jsonl", "--data_dir", "d"], 'unknown option "--data_dir"'),
    ],
)
def test_mistakes(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=".*") as told:
        run(words)
    assert said in str(told.value)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("mine")
    with pytest.raises(ConfigError, match="exists. Choose another name"):
        prepare(corpus, output)
    (corpus / "csv/b.csv").unlink()
    with pytest.raises(Exception, match="there is no csv/b.csv"):
        prepare(corpus, output, "--overwrite_cache")
    assert output.read_text() == "mine"
