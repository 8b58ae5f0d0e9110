"""The page of a run: what it holds, that it disturbs nothing, and that its failure is nobody's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset
from rich.console import Console
from safetensors.torch import load_file

import unmask
from unmask.errors import ConfigError, ModelError
from unmask.training import report as report_module
from unmask.training.arguments import Settings
from unmask.training.report import read_report, thinned, thinned_history
from unmask.training.report_samples import asked_of_rows
from unmask.training.run import train

Make = Callable[..., Settings]


@pytest.fixture
def evaluated(conversations: Path) -> dict:
    return {
        "report": True,
        "sample_new_tokens": 6,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "max_steps": 4,
        "dataset_args": f"{conversations}[train:30,test:10]",
    }


def test_it_holds_curves_samples_and_the_recipe(settings: Make, tmp_path: Path, evaluated: dict) -> None:
    run = train(settings(**evaluated), verb="sft")
    told = read_report(tmp_path / "run" / "report.html")
    assert told["state"] == "finished" and (told["step"], told["max_steps"]) == (4, 4)
    assert told["history"] == run.history
    assert [sample["step"] for sample in told["samples"]] == [0, 2, 4]
    assert 0 < told["yardstick"] < 6 and told["memory"]["estimate"] > 0 and told["memory"]["peak"] > 0
    assert told["command"].startswith("unmask sft --model_name_or_path ")
    shown = {title: dict(rows) for title, rows in told["panels"]}
    assert shown["Data"]["training"].startswith("30 rows") and shown["Data"]["evaluation"].startswith("10 rows")
    assert ["learning_rate", "0.01", True] in told["settings"] and ["seed", "3", True] in told["settings"]


def test_samples_are_what_the_model_writes(settings: Make, tmp_path: Path, evaluated: dict, checkpoint: Path) -> None:
    train(settings(**evaluated, sample_prompts=("red cat", "blue, dog")), verb="sft")
    samples = read_report(tmp_path / "run" / "report.html")["samples"]
    for step, folder in ((0, checkpoint), (4, tmp_path / "run")):
        lm = unmask.load(str(folder), device="cpu")
        asked = [[{"role": "user", "content": text}] for text in ("red cat", "blue, dog")]
        expected = lm.generate(asked, max_new_tokens=6, block_size=6, steps=3, seed=3)
        (rows,) = (sample["recording"]["rows"] for sample in samples if sample["step"] == step)
        assert [row["title"] for row in rows] == ["red cat", "blue, dog"]
        assert [row["text"] for row in rows] == [done.text for done in expected]


def test_rows_of_the_data_bring_their_answers(settings: Make, tmp_path: Path, evaluated: dict) -> None:
    train(settings(**evaluated), verb="sft")
    for row in read_report(tmp_path / "run" / "report.html")["samples"][-1]["recording"]["rows"]:
        assert row["expected"].split() == row["title"].split()[::-1], "the answers of these data are reversed questions"


@pytest.mark.parametrize("more", [{}, {"lora": True, "r": 4, "lora_dropout": 0.3}], ids=["whole", "adapter"])
def test_it_changes_nothing_of_what_is_learned(settings: Make, tmp_path: Path, evaluated: dict, more: dict) -> None:
    shown = train(settings(**evaluated, **more, output_dir=str(tmp_path / "a")), verb="sft")
    alone = train(settings(**{**evaluated, "report": False}, **more, output_dir=str(tmp_path / "b")), verb="sft")
    assert not (tmp_path / "b" / "report.html").exists()
    (name,) = (path.name for path in shown.folder.glob("*.safetensors"))
    one, two = load_file(shown.folder / name), load_file(alone.folder / name)
    assert all(one[key].equal(two[key]) for key in one)


def test_a_page_that_cannot_be_written_is_told_once(
    settings: Make, evaluated: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_module, "write_beside", full)
    screen = Console(record=True, width=200, file=(tmp_path / "screen").open("w"))
    assert train(settings(**evaluated), verb="sft", console=screen).folder.is_dir()
    told = screen.export_text()
    assert told.count("is not written any more") == 1 and "No space left on device" in told


def test_a_sampler_that_fails_is_told_once(settings: Make, evaluated: dict, monkeypatch, tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise ModelError("logits are not finite")

    monkeypatch.setattr("unmask.training.report_samples.Sampler.record", broken)
    screen = Console(record=True, width=200, file=(tmp_path / "screen").open("w"))
    train(settings(**evaluated), verb="sft", console=screen)
    assert screen.export_text().count("no more samples") == 1
    assert read_report(tmp_path / "run" / "report.html")["samples"] == []


def test_a_run_that_stops_says_why(settings: Make, evaluated: dict, monkeypatch, tmp_path: Path) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unmask.training.trainer.DiffusionTrainer._evaluate_forward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(settings(**evaluated), verb="sft")
    told = read_report(tmp_path / "run" / "report.html")
    assert (told["state"], told["reason"]) == ("stopped", "interrupted")


def test_a_resumed_run_keeps_its_samples(settings: Make, evaluated: dict, tmp_path: Path) -> None:
    steady = {**evaluated, "save_strategy": "steps", "save_steps": 2}
    train(settings(**{**steady, "max_steps": 2}), verb="sft")
    before = read_report(tmp_path / "run" / "report.html")
    train(settings(**steady), verb="sft")
    after = read_report(tmp_path / "run" / "report.html")
    assert [sample["step"] for sample in after["samples"]] == [0, 2, 4]
    assert after["samples"][0] == before["samples"][0]
    assert after["seconds"] > before["seconds"]


def test_prompts_come_from_a_file_or_not_at_all(settings: Make, tmp_path: Path, texts: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("the sun\n\nthe sea </script><b>\n", "utf-8")
    more = {"report": True, "dataset_args": str(texts), "max_length": 32, "max_steps": 2, "sample_new_tokens": 4}
    train(settings(**more, sample_prompts=(str(file),), sample_every=1), verb="pretrain")
    told = read_report(tmp_path / "run" / "report.html")
    assert [sample["step"] for sample in told["samples"]] == [0, 1, 2]
    assert [row["title"] for row in told["samples"][0]["recording"]["rows"]] == ["the sun", "the sea </script><b>"]
    train(settings(**more, sample_prompts=("",), output_dir=str(tmp_path / "none")), verb="pretrain")
    assert read_report(tmp_path / "none" / "report.html")["samples"] == []


def test_a_prompt_longer_than_the_model_is_refused_before_anything_is_written(settings: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sample_prompts: .* has .* tokens, the model was made for 256"):
        train(settings(report=True, sample_prompts=("red " * 100,)), verb="sft")
    assert not (tmp_path / "run").exists()


def test_rows_become_prompts_the_first_short_ones_or_else_the_shortest(checkpoint: Path) -> None:
    lm = unmask.load(str(checkpoint), device="cpu")

    def chosen(*prompts: int, new_tokens: int = 10) -> list[int]:
        rows = [{"input_ids": [9] * end + [10, 11], "may_noise": [False] * end + [True] * 2} for end in prompts]
        asked = asked_of_rows(Dataset.from_list(rows), "sft", lm, 256, new_tokens)
        assert all(one.expected == lm.tokenizer.decode([10, 11]) for one in asked)
        return [len(one.prompt) for one in asked]

    assert chosen(20, 230, 30, 240, 10, 5) == [20, 30, 10]
    assert chosen(240, 230, 245, 210) == [240, 230, 210]
    assert chosen(250, 30) == [30], "what leaves no room for an answer is no prompt"
    openings = asked_of_rows(Dataset.from_list([{"input_ids": list(range(9, 109))}] * 5), "pretrain", lm, 256, 10)
    assert [len(one.prompt) for one in openings] == [24, 24, 24] and openings[0].expected is None


def test_long_histories_are_thinned() -> None:
    assert thinned([1, 2, 3], 3) == [1, 2, 3]
    few = thinned(range(1000), 10)
    assert len(few) == 10 and (few[0], few[-1]) == (0, 999) and few == sorted(set(few))
    history = [{"step": float(i), "loss": 1.0} for i in range(100)] + [{"step": 7.0, "eval_nll": 1.0}] * 30
    kept = thinned_history(history, 10)
    assert sum("loss" in line for line in kept) == 10 and sum("eval_nll" in line for line in kept) == 30


def test_what_is_no_report_is_not_read(tmp_path: Path) -> None:
    assert read_report(tmp_path / "none.html") == {}
    (tmp_path / "other.html").write_text("<html></html>")
    assert read_report(tmp_path / "other.html") == {}
    (tmp_path / "data.html").write_text(
        '<script type="application/json" id="data">' + json.dumps({"a": 1}) + "</script>"
    )
    assert read_report(tmp_path / "data.html") == {}
