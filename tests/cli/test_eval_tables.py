"""`unmask eval tables`: which rows it asks, what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import unmask
from tests import tiny
from unmask.cli.eval import run
from unmask.cli.eval_tables import table
from unmask.cli.main import main
from unmask.data.sources import load_records
from unmask.data.sources.reading import Reading
from unmask.data.spec import parse_dataset_args
from unmask.errors import ConfigError, DataError, ResourceError
from unmask.evaluation import sentences
from unmask.models.checkpoints import load_model, save_model
from unmask.models.families.llama import FAMILY as LLAMA

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


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of a few thousand weights with the same tokenizer."""
    folder = tmp_path_factory.mktemp("causal")
    tiny.write_tokenizer(folder)
    size = {"vocab_size": 264, "max_position_embeddings": 256, "eos_token_id": 1, "pad_token_id": 1}
    (folder / "config.json").write_text(json.dumps({**LLAMA.tiny_config, **size}), encoding="utf-8")
    save_model(load_model(folder, from_scratch=True, seed=1), folder)
    return folder


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
    assert found["metrics"]["em"]["count"] == 6 and set(found["breakdown"]["kind"]) == {"a", "b"}
    assert found["model"]["family"] == "llada" and found["model"]["name"] == str(checkpoint)
    decoding = found["settings"]["decoding"]
    assert (decoding["steps"], decoding["block_size"]) == (4, 4)
    # q0 to q5 have the right answers 0, 7, 7, 7, 4, 7
    baselines = found["breakdown"]["baseline"]
    assert baselines["majority"]["em"]["mean"] == pytest.approx(4 / 6)
    assert baselines["copy"]["em"]["mean"] == pytest.approx(2 / 6)
    assert "| majority | 6 | 66.7 (" in (tmp_path / "results.md").read_text()
    written = {file.name for file in tmp_path.iterdir()}
    assert written == {"cases.jsonl", "results.json", "results.md", "results.html", "errors.html"}
    before = (tmp_path / "cases.jsonl").read_text()
    assert run(words) == 0
    assert "6 of 6 questions were answered before" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="other settings"):
        run([*words, "--max_new_tokens", "5"])
    assert (tmp_path / "cases.jsonl").read_text() == before
    assert run([*words, "--limit", "2", "--fresh"]) == 0
    assert len(cases(tmp_path)) == 2
    assert (tmp_path / "cases.jsonl.before-1").read_text() == before


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
    assert found["settings"] == {"baseline": "majority"} and found["model"] is None
    # 15 of 20 say 7
    assert found["metrics"]["em"]["mean"] == 0.75


SHAPES = {
    "alpaca": [{"instruction": "say", "input": "x", "output": "x"}, {"instruction": "say y", "output": "y"}],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"say {word}"}, {"from": "gpt", "value": word}]} for word in "xy"
    ],
    "turns": [
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "hi"},
                {"role": "user", "content": f"say {word}"},
                {"role": "assistant", "content": word},
            ]
        }
        for word in "xy"
    ],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_any_conversation_is_asked(
    shape: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SHAPES[shape]))
    asked = ["tables", "--dataset_args", str(path), "--json"]
    assert run([*asked, "--baseline", "majority"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["em"]["mean"] == 0.5
    folder = tmp_path / "out"
    assert run([*asked, "--model_name_or_path", str(checkpoint), "--output_dir", str(folder), *QUICK]) == 0
    found = cases(folder)
    # the last turn is the right answer
    assert [case["gold"] for case in found] == ["x", "y"] and all(
        set(case["metrics"]) == {"em", "f1"} for case in found
    )
    assert all(isinstance(case["prediction"], str) for case in found)


def test_choices_are_scored_by_likelihood(
    checkpoint: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["tables", "--dataset_args", str(questions), "--limit", "6", "--device", "cpu"]
    asked += ["--model_name_or_path", str(checkpoint), "--scoring", "likelihood"]
    folders = [tmp_path / "plain", tmp_path / "calibrated"]
    for folder, more in zip(folders, ([], ["--calibrate", "--choices", "7,0,4"]), strict=True):
        assert run([*asked, *more, "--output_dir", str(folder), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert set(found["metrics"]) == {"em", "probability"} and found["settings"]["calibrate"] is bool(more)
        assert found["settings"]["choices"] == (["7", "0", "4"] if more else ["0", "4", "7"])
        assert set(cases(folder)[0]["choices"]) == {"0", "4", "7"} and (folder / "errors.html").exists()
    assert run(["compare", *map(str, folders), "--json"]) == 0
    gap = json.loads(capsys.readouterr().out)["differences"]
    assert set(gap) == {"em", "probability"} and gap["em"]["cases"] == 6


def test_an_autoregressive_checkpoint_is_a_baseline(
    checkpoint: Path, causal: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for model in (checkpoint, causal):
        folders.append(tmp_path / f"by-{len(folders)}")
        words = ["tables", "--model_name_or_path", str(model), "--dataset_args", str(questions), "--limit", "4"]
        assert run([*words, "--output_dir", str(folders[-1]), *QUICK, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["model"]["attention"] == "causal" and found["metrics"]["em"]["count"] == 4
    lm = unmask.load(causal, device="cpu")
    asked = [{"role": "user", "content": cases(folders[1])[0]["question"]}]
    assert cases(folders[1])[0]["prediction"] == lm.generate([asked], max_new_tokens=4)[0].text.strip()
    assert run(["compare", *map(str, folders)]) == 0
    assert "| f1 |" in capsys.readouterr().out


def test_corpora_bring_their_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "12 million"}]
    rows = [
        {"source": "tatqa", "kind": "arithmetic", "answers": ["12"], "scale": "million", "messages": turns},
        {"source": "fetaqa", "messages": turns},
    ]
    for row, more, shown in (
        (rows[0], [], {"em", "f1", "tatqa_em", "tatqa_f1", "scale"}),
        (rows[1], [], {"em", "f1", "rouge1", "rouge2", "rougeL", "sentence_bleu", "bleu"}),
        (
            {"messages": turns},
            ["--sentence_scores"],
            {"em", "f1", "rouge1", "rouge2", "rougeL", "sentence_bleu", "bleu"},
        ),
    ):
        (tmp_path / "one.jsonl").write_text(json.dumps(row) + "\n")
        asked = ["tables", "--baseline", "majority", "--dataset_args", str(tmp_path / "one.jsonl"), *more, "--json"]
        assert run(asked) == 0
        found = json.loads(capsys.readouterr().out)["metrics"]
        assert set(found) == shown and found["em"]["mean"] == 1
        assert found.get("tatqa_em", found["em"])["mean"] == 1


def test_what_is_missing_is_said_before_a_model_is_loaded(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (tmp_path / "one.jsonl").write_text(json.dumps({"source": "fetaqa", "messages": turns}) + "\n")
    asked = ["tables", "--model_name_or_path", str(tmp_path / "none"), "--dataset_args", str(tmp_path / "one.jsonl")]
    with pytest.raises(DataError, match="these questions have 1 different right"):
        run([*asked, "--scoring", "likelihood"])
    monkeypatch.setattr(sentences, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"ROUGE and BLEU need rouge_score and sacrebleu.*unmask\[eval\]"):
        run(asked)


def test_no_page_of_errors_unless_wanted(questions: Path, tmp_path: Path) -> None:
    asked = ["tables", "--baseline", "copy", "--dataset_args", str(questions), "--output_dir"]
    assert run([*asked, str(tmp_path / "a"), "--error_cases", "0"]) == 0
    assert not (tmp_path / "a/errors.html").exists()
    assert run([*asked, str(tmp_path / "b"), "--error_cases", "2"]) == 0
    page = (tmp_path / "b/errors.html").read_text()
    assert page.count('"cut_off"') == 2 and "baseline copy" in page


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
        (["tables", "--dataset_args", "Q", "--error_cases", "-1"], "--error_cases is -1"),
        (
            ["tables", "--dataset_args", "Q", "--scoring", "likelihood", "--steps", "4"],
            "no effect with --scoring likeli",
        ),
        (["tables", "--dataset_args", "Q", "--choices", "a,b"], "--choices has no effect with --scoring generation"),
        (["tables", "--dataset_args", "Q", "--scoring", "likelihood", "--baseline", "copy"], "asks a model"),
        *(
            (["tables", "--dataset_args", "Q", "--baseline", "copy", *more], f"{more[0]} is a model's, and --baseline")
            for more in (
                ["--adapter", "nosuch"],
                ["--load_in_4bit"],
                ["--compile"],
                ["--guidance_scale", "3"],
                ["--device", "cuda:9"],
                ["--batch_size", "3"],
            )
        ),
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


def test_bad_rows_are_left_out_where_that_is_asked(
    tmp_path: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row without an answer, and one with more tagged answers than answers."""
    path = tmp_path / "bad.jsonl"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}]
    odd = {"messages": turns, "source": "wikitablequestions", "answers": ["x"], "canonical": ["1", "2"]}
    path.write_text(questions.read_text() + "".join(json.dumps(row) + "\n" for row in ({"messages": turns[:1]}, odd)))
    asked = ["tables", "--baseline", "copy", "--dataset_args", str(path), "--json"]
    with pytest.raises(DataError, match="--skip_bad_rows true"):
        run(asked)
    assert run([*asked, "--skip_bad_rows", "true"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["em"]["count"] == 20
    assert any("1 rows left out: canonical has 2 texts and answers 1" in note for note in found["notes"])
    path.write_text(questions.read_text() + json.dumps(odd) + "\n")
    with pytest.raises(DataError, match=r"bad\.jsonl:21: canonical has 2 texts and answers 1; they go in pairs"):
        run(asked)


def test_one_choice_is_refused_and_not_taken_for_its_letters(questions: Path) -> None:
    asked = ["tables", "--model", "nowhere", "--dataset_args", str(questions), "--scoring", "likelihood"]
    with pytest.raises(ConfigError, match=r"choices are \['yes'\]; give two or more"):
        run([*asked, "--choices", "yes"])
