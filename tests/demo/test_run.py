"""The whole demo, tiny: it runs offline, leaves what it says, repeats for a seed, differs for another."""

from __future__ import annotations

import io
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from unmask.cli.main import main
from unmask.demo import run as demo
from unmask.demo.options import DemoOptions
from unmask.demo.run import run_demo
from unmask.demo.seedling import Size
from unmask.demo.story import next_commands
from unmask.errors import ConfigError
from unmask.lm import load

TINY = Size(texts=120, facts=20, questions=60, test_rows=8, vocab_size=384, width=32, layers=1, heads=2, mlp_width=48)


def play(folder: Path, seed: int = 0, watch=None):
    out = io.StringIO()
    options = DemoOptions(output_dir=str(folder), seed=seed, steps=10)
    report = run_demo(options, console=Console(file=out, width=100), watch=watch, size=TINY)
    return report, out.getvalue()


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _no_network)
        return *play(folder), folder


def _no_network(*_):
    raise AssertionError("the demo must not need a network")


def test_the_report_says_what_was_measured(played) -> None:
    report, told, folder = played
    assert json.loads((folder / "report.json").read_text("utf-8")) == json.loads(json.dumps(report.to_dict()))
    assert report.steps == {"pretrain": 10, "sft": 5}
    assert report.uniform_nats > report.unigram_nats > 0
    assert report.bound_after < report.bound_before
    assert report.facts_after.asked == 54
    assert sum(score.asked for score in report.answers_after.values()) == TINY.test_rows
    assert all(score.right <= score.fitting <= score.asked for score in report.answers_after.values())
    assert report.seconds["total"] >= report.seconds["pretraining"] + report.seconds["fine-tuning"]
    for number in (report.bound_before, report.bound_after, report.unigram_nats):
        assert f"{number:.2f}" in told
        assert f"{number:.2f}" in (folder / "report.md").read_text("utf-8")
    assert all(command in told for command in next_commands(str(folder)))


def test_what_it_leaves_are_models(played) -> None:
    folder = played[2]
    for name in ("pretrain", "sft"):
        (result,) = load(folder / name, device="cpu").generate("A", max_new_tokens=4, steps=2)
        assert result.stats.forwards.total >= 1
    config = json.loads((folder / "base" / "config.json").read_text("utf-8"))
    assert config["model_type"] == "llada" and not (folder / "base" / "model.safetensors").exists()


def test_a_seed_repeats_and_another_differs(played, tmp_path) -> None:
    first, commits = played[0], []
    again, _ = play(tmp_path / "again", watch=lambda stream, lm: commits.extend(stream))
    other, _ = play(tmp_path / "other", seed=1)
    same = ("bound_before", "bound_after", "unigram_nats", "continued", "filled", "answers_after", "train_tokens")
    assert all(getattr(again, name) == getattr(first, name) for name in same)
    assert other.bound_after != first.bound_after and other.unigram_nats != first.unigram_nats
    # the canvas was handed to the watcher, and nothing changed by that
    assert sum(len(commit.positions) for commit in commits) > 0


def test_a_folder_of_something_else_is_refused(played, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for folder in (tmp_path / "mine", played[2]):
        with pytest.raises(ConfigError, match="is not empty. Remove it, or choose another --output_dir"):
            play(folder)


def test_without_a_folder_the_next_free_name_is_taken(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unmask-demo").mkdir()
    (tmp_path / "unmask-demo" / "demo.json").write_text("{}")
    assert demo._claim(DemoOptions()) == Path("unmask-demo-2")
    # unfinished: gone on with; other options: not
    assert demo._claim(DemoOptions()) == Path("unmask-demo-2")
    assert demo._claim(DemoOptions(seed=1)) == Path("unmask-demo-3")
    (tmp_path / "unmask-demo-2" / "report.json").write_text("{}")
    assert demo._claim(DemoOptions()) == Path("unmask-demo-4")


def test_an_interrupted_demo_is_finished(played, tmp_path) -> None:
    folder = tmp_path / "cut"
    train = demo.train

    def interrupted(settings, *, verb, console):
        if verb == "sft":
            raise KeyboardInterrupt
        return train(settings, verb=verb, console=console)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            play(folder)
    report, _ = play(folder)
    assert report.bound_after == played[0].bound_after
    assert report.answers_after == played[0].answers_after


def test_minutes_limit_the_steps(played, monkeypatch) -> None:
    lm, stage = load(played[2] / "pretrain", device="cpu"), demo.Stage(played[2], Console(), None, DemoOptions(), TINY)
    monkeypatch.setattr(demo.measures, "seconds_per_update", lambda *_: 1.0)
    slow = demo._plan(lm, stage)
    monkeypatch.setattr(demo.measures, "seconds_per_update", lambda *_: 1e-3)
    assert slow["pretrain"] * 1.0 + slow["sft"] * 1.0 < 4 * 60
    assert slow["pretrain"] > 60
    assert demo._plan(lm, stage)["pretrain"] == demo.PRETRAIN_STEPS
    asked = replace(stage, options=DemoOptions(steps=7, minutes=0.001))
    assert demo._plan(lm, asked) == {"pretrain": 7, "sft": 3}


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        (["--steps", "0"], "steps is 0; it must be at least 1"),
        (["--minutes", "-1"], "minutes is -1"),
        (["--seed", "-1"], "seed is -1"),
        (["--sede", "1"], 'Did you mean "--seed"?'),
        (["--output_dir", "/proc/none"], "cannot write to /proc/none"),
    ],
)
def test_mistakes_are_told(argv, phrase, capsys) -> None:
    assert main(["demo", *argv]) == 2
    assert phrase in capsys.readouterr().err


def test_json_is_all_there_is_on_stdout(tmp_path, monkeypatch, capsys) -> None:
    whole = demo.run_demo
    monkeypatch.setattr(demo, "run_demo", lambda options, **rest: whole(options, **rest, size=TINY))
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--steps", "2", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["steps"] == {"pretrain": 2, "sft": 1}
    assert "nothing" in told.err and (tmp_path / "unmask-demo" / "report.md").is_file()
