"""`unmask eval tables`: which rows it asks, what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unmask.cli.eval import run
from unmask.cli.eval_tables import table
from unmask.cli.main import main
from unmask.data.sources import load_records
from unmask.data.sources.reading import Reading
from unmask.data.spec import parse_dataset_args
from unmask.errors import ConfigError, DataError

QUICK = ["--max_new_tokens", "4", "--batch_size", "8"]


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    lines = []
    for number in range(20):
        turns = [{"role": "user", "content": f"| n |\n| --- |\n| {number} |\n\nn?"}]
        turns += [{"role": "assistant", "content": "7" if number % 4 else str(number)}]
        lines.append({"id": f"q{number}", "kind": "ab"[number % 2], "answers": ["x"], "other": 1, "messages": turns})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def cases(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "cases.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_model_is_asked_and_scored(
    checkpoint: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tables", "--model_name_or_path", str(checkpoint), "--dataset_args", str(questions)]
    words += ["--output_dir", str(tmp_path), "--limit", "6", "--device", "cpu", *QUICK]
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "results.json").read_text())
    assert [case["id"] for case in cases(tmp_path)] == [f"q{number}" for number in range(6)]
    assert found["totals"]["count"] == 6 and set(found["breakdown"]["kind"]) == {"a", "b"}
    assert found["model"]["family"] == "llada" and found["model"]["name"] == str(checkpoint)
    assert (found["decoding"]["steps"], found["decoding"]["block_size"]) == (4, 4)
    # q0 to q5 have the right answers 0, 7, 7, 7, 4, 7
    assert found["baselines"]["majority"]["em"]["mean"] == pytest.approx(4 / 6)
    assert found["baselines"]["copy"]["em"]["mean"] == pytest.approx(2 / 6)
    assert "| baseline: majority | 6 | 66.7 (" in (tmp_path / "results.md").read_text()
    before = (tmp_path / "cases.jsonl").read_text()
    assert run(words) == 0
    assert "6 of 6 questions were answered before" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="other settings"):
        run([*words, "--max_new_tokens", "5"])
    assert (tmp_path / "cases.jsonl").read_text() == before
    assert run([*words, "--limit", "2", "--fresh"]) == 0
    assert len(cases(tmp_path)) == 2


def test_the_test_part_is_the_one_that_training_leaves_out(questions: Path, tmp_path: Path) -> None:
    text = f"{questions}[test:5]"
    assert run(["tables", "--baseline", "copy", "--dataset_args", text, "--output_dir", str(tmp_path)]) == 0
    trained = load_records(parse_dataset_args(text)[0], Reading("conversation"))
    assert trained.test is not None and isinstance(trained.train, type(trained.test))
    left_out = {row["messages"][0]["content"] for row in trained.test}
    learned = {row["messages"][0]["content"] for row in trained.train}
    asked = {case["question"] for case in cases(tmp_path)}
    assert len(asked) == 5 and asked == left_out and not asked & learned
    # what stands beside the messages went with them
    assert all(case["question"].split("\n")[2] == f"| {case['id'][1:]} |" for case in cases(tmp_path))


def test_a_baseline_needs_no_model(questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tables", "--baseline", "majority", "--dataset_args", str(questions), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["baseline"] == "majority" and "model" not in found
    # 15 of 20 say 7
    assert found["totals"]["em"]["mean"] == 0.75


def test_any_shape_of_row_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([{"instruction": "say x", "output": "x"}, {"instruction": "say y", "output": "y"}]))
    assert run(["tables", "--baseline", "majority", "--dataset_args", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["em"]["mean"] == 0.5


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--help"]) == 0 and main(["eval", "tables", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--max_new_tokens" in shown and "unmask eval tables --model_name_or_path" in shown
    # `--model` is a kind of checkpoint here, `--gen_length` another spelling as everywhere
    assert "model" in table().types


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table"], 'Did you mean "tables"'),
        (["tables"], "--dataset_args is missing"),
        (["tables", "--dataset_args", "Q", "--baseline", "copy", "--model_name_or_path", "M"], "instead of a model"),
        (["tables", "--dataset_args", "Q", "--model_name_or_path", "M", "--batch_size", "0"], "--batch_size is 0"),
        (["tables", "--dataset_args", "Q", "--model_name_or_path", "M", "--limit", "0"], "limit is 0"),
        (["tables", "--dataset_args", "Q", "--model_name_or_path", "M", "--model", "dream"], "of the family llada"),
        (["tables", "--dataset_args", "Q", "--baseline", "best"], "not one of majority, copy"),
    ],
)
def test_mistakes(words: list[str], said: str, questions: Path, checkpoint: Path) -> None:
    real = {"Q": str(questions), "M": str(checkpoint)}
    with pytest.raises(ConfigError) as told:
        run([real.get(word, word) for word in words])
    assert said in str(told.value)


def test_a_row_without_an_answer(tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(questions.read_text() + '{"messages": [{"role": "user", "content": "q"}]}\n')
    with pytest.raises(DataError, match="bad.jsonl:21 no assistant turn"):
        run(["tables", "--baseline", "copy", "--dataset_args", str(path)])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="runs in one process"):
        run(["tables", "--baseline", "copy", "--dataset_args", str(questions)])
