"""`unmask eval likelihood` and `unmask eval compare`: what they write, print and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unmask.cli.eval import run
from unmask.errors import ConfigError, DataError

QUICK = ["--samples", "4", "--max_length", "40", "--device", "cpu"]


def test_texts_are_scored_and_reported(
    checkpoint: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "likelihood",
        "--model_name_or_path",
        str(checkpoint),
        "--dataset_args",
        str(texts),
        "--limit",
        "5",
        *QUICK,
    ]
    assert run([*words, "--output_dir", str(tmp_path / "a"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "a/results.json").read_text())
    size = sum(len(json.loads(line)["text"].encode()) for line in texts.read_text().splitlines()[:5])
    assert found["metrics"]["bytes"]["mean"] == size and found["metrics"]["nll"]["mean"] > 0
    assert found["model"]["name"] == str(checkpoint) and found["settings"]["samples"] == 4
    assert {"results.md", "results.html", "cases.jsonl"} <= {file.name for file in (tmp_path / "a").iterdir()}
    # once more, there is nothing left to do
    assert run([*words, "--output_dir", str(tmp_path / "a")]) == 0
    said = capsys.readouterr()
    assert "passages were scored before" in said.err and "| perplexity |" in said.out
    assert run([*words, "--output_dir", str(tmp_path / "b"), "--seed", "1", "--json"]) == 0
    capsys.readouterr()
    assert run(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    gap = json.loads(capsys.readouterr().out)["differences"]["nll"]
    assert gap["first"] == pytest.approx(found["metrics"]["nll"]["mean"]) and gap["low"] < gap["high"]
    assert run(["compare", str(tmp_path / "a"), str(tmp_path / "a")]) == 0
    assert "| bits_per_byte |" in capsys.readouterr().out


def test_a_text_and_answers_are_scored(
    checkpoint: Path, conversations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["likelihood", "--model_name_or_path", str(checkpoint), *QUICK, "--json"]
    assert run([*model, "--text", "abc"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    # seven masks: more than four samples, so that they are drawn
    assert found["tokens"]["mean"] == 3 and found["nll"]["stderr"] > 0
    assert run([*model, "--dataset_args", str(conversations), "--answers", "--limit", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["tokens"]["count"] == 2


def test_what_does_not_fit_is_skipped_and_counted_on_request(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talks = [("Is it?", "Yes."), ("x" * 900, "No."), ("And now?", "No.")]
    rows = [[{"role": "user", "content": one}, {"role": "assistant", "content": other}] for one, other in talks]
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows) + "nonsense\n")
    words = ["likelihood", "--model_name_or_path", str(checkpoint), *QUICK, "--dataset_args", str(file), "--answers"]
    with pytest.raises(DataError, match=r"talks\.jsonl:4:1 invalid JSON.*--skip_bad_rows true"):
        run(words)
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"talks\.jsonl:2 has 9\d\d tokens, .*--skip_bad_rows true"):
        run(words)
    file.write_text(file.read_text() + "nonsense\n")
    assert run([*words, "--skip_bad_rows", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["bytes"]["mean"] == len("Yes.") + len("No.") and found["metrics"]["bytes"]["count"] == 2
    first, second = (note for note in found["notes"] if "rows skipped" in note)
    assert "1 of 4 rows skipped" in first and "1 of 3 rows skipped" in second


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (["likelihood"], "Give --dataset_args FILE, or --text TEXT"),
        (["likelihood", "--text", "a", "--dataset_args", "b"], "one of them"),
        (["likelihood", "--text", "a", "--answers"], "--answers scores conversations"),
        (["likelihood", "--text", "a", "--samples", "0"], "samples is 0; it must be at least 1"),
        (["compare", "one"], "eval compare takes two folders"),
        (["compere", "a", "b"], "compare"),
    ],
)
def test_mistakes_are_named(words: list[str], phrase: str) -> None:
    with pytest.raises(ConfigError, match=phrase):
        run(words)


def test_folders_without_an_evaluation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Give the folder of an evaluation"):
        run(["compare", str(tmp_path), str(tmp_path)])


@pytest.mark.parametrize("words", [["--json", "A", "B"], ["A", "--json", "B"], ["--seed", "3", "A", "B", "--json"]])
def test_options_of_compare_stand_anywhere(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("A", "B"):
        case = {"id": "1", "metrics": {"em": float(name == "B")}}
        (tmp_path / name).write_text(json.dumps(case) + "\n")
    assert run(["compare", *(str(tmp_path / word) if word in ("A", "B") else word for word in words)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["first"], found["second"]) == (str(tmp_path / "A"), str(tmp_path / "B"))
    assert found["differences"]["em"]["difference"] == 1
