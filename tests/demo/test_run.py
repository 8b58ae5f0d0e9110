"""The whole demo, tiny: it runs offline, leaves what it says, repeats for a seed, differs for another."""

from __future__ import annotations

import io
import json
import shlex
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.tiny import write_checkpoint
from unmask.cli.main import main
from unmask.demo import run as demo
from unmask.demo.materials import Size
from unmask.demo.options import DemoOptions
from unmask.demo.run import run_demo
from unmask.demo.story import next_commands
from unmask.errors import ConfigError, ModelError
from unmask.lm import load
from unmask.models.folders import resolve_folder


@pytest.fixture(scope="module")
def size(tmp_path_factory) -> Size:
    """The base that ships, or a stand-in whose tokens are bytes."""
    tiny = Size(questions=48, unseen=16, statements=4, batch=4)
    try:
        resolve_folder(tiny.base)
    except ModelError:
        stand_in = write_checkpoint(tmp_path_factory.mktemp("base"), max_sequence_length=640)
        return replace(tiny, base=str(stand_in), length=600)
    return tiny


def play(folder: Path, size: Size, seed: int = 0, watch=None):
    out = io.StringIO()
    options = DemoOptions(output_dir=str(folder), seed=seed, steps=4)
    report = run_demo(options, console=Console(file=out, width=100), watch=watch, size=size)
    return report, out.getvalue()


@pytest.fixture(scope="module")
def played(size, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _no_network)
        return *play(folder, size), folder


def _no_network(*_):
    raise AssertionError("the demo must not need a network")


def test_the_report_says_what_was_measured(played, size) -> None:
    report, told, folder = played
    assert json.loads((folder / "report.json").read_text("utf-8")) == json.loads(json.dumps(report.to_dict()))
    assert report.steps == 4
    for scores in (report.before, report.after, *report.baselines.values()):
        assert scores["all"].asked == size.unseen == sum(scores[kind].asked for kind in scores) - size.unseen
    assert report.filled_before.asked == report.filled_after.asked == size.statements
    assert report.seconds["total"] >= report.seconds["fine-tuning"]
    assert f"Of 16 such questions about unseen tables it answers {report.before['all'].right} exactly" in told
    assert f"{report.after['all'].right} of 16" in told
    assert all(command in told for command in next_commands(report))


def test_what_it_leaves(played, size) -> None:
    folder = played[2]
    (result,) = load(folder / "lora", device="cpu").generate("A", max_new_tokens=4, steps=2)
    assert result.stats.forwards.total >= 1
    adapter = json.loads((folder / "lora" / "checkpoint-final" / "adapter_config.json").read_text("utf-8"))
    assert adapter["base_model_name_or_path"] == size.base
    for name in ("report.html", "trace.html", "lora/report.html"):
        page = (folder / name).read_text("utf-8")
        assert "<main" in page and ' src="' not in page and "https:" not in page
    assert all(len((folder / f"answers_{when}.jsonl").read_text().splitlines()) == 16 for when in ("before", "after"))


def test_a_folder_of_something_else_is_refused(played, size, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for folder in (tmp_path / "mine", played[2]):
        with pytest.raises(ConfigError, match="is not empty. Remove it, or choose another --output_dir"):
            play(folder, size)


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


def test_an_interrupted_demo_ends_as_one_left_alone(played, size, tmp_path) -> None:
    folder, first, commits = tmp_path / "cut", played[0], []

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            play(folder, size)
    again, _ = play(folder, size, watch=lambda stream, lm: commits.extend(stream))
    for name in ("before", "after", "filled", "filled_after", "examples", "recording", "baselines"):
        assert getattr(again, name) == getattr(first, name)
    # the canvas was handed to the watcher, and nothing changed by that
    assert sum(len(commit.positions) for commit in commits) > 0


def test_minutes_limit_the_steps(size, tmp_path, monkeypatch) -> None:
    lm = load(size.base, device="cpu")
    clock = demo.Clock({"asking before": 10.0})
    stage = demo.Stage(tmp_path, Console(), None, DemoOptions(minutes=5), replace(size, steps=1000), clock)
    monkeypatch.setattr(demo.measures, "seconds_per_update", lambda *_: 1.0)
    slow = demo._affordable(stage, lm)
    assert 100 <= slow * 1.0 < 5 * 60
    # a measure that trembles changes nothing
    monkeypatch.setattr(demo.measures, "seconds_per_update", lambda *_: 1.05)
    assert demo._affordable(stage, lm) == slow
    monkeypatch.setattr(demo.measures, "seconds_per_update", lambda *_: 1e-3)
    assert demo._plan(stage, lm) == 1000
    # one that was interrupted keeps to its plan
    monkeypatch.setattr(demo.measures, "seconds_per_update", lambda *_: 1.0)
    assert demo._plan(stage, lm) == 1000
    assert demo._plan(replace(stage, options=DemoOptions(steps=7, minutes=0.001)), lm) == 7


def test_the_next_commands_are_understood(played) -> None:
    from unmask.cli.main import VERBS

    for command in next_commands(played[0]):
        first, verb, *_ = shlex.split(command)
        assert first == "unmask" and verb in VERBS


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        (["--steps", "0"], "steps is 0; it must be at least 1"),
        (["--minutes", "-1"], "minutes is -1"),
        (["--seed", "-1"], "seed is -1"),
        (["--sede", "1"], 'Did you mean "--seed"?'),
    ],
)
def test_mistakes_are_told(argv, phrase, capsys) -> None:
    assert main(["demo", *argv]) == 2
    assert phrase in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told(size, monkeypatch, capsys) -> None:
    whole = demo.run_demo
    monkeypatch.setattr(demo, "run_demo", lambda options, **rest: whole(options, **rest, size=size))
    assert main(["demo", "--output_dir", "/proc/none"]) == 2
    assert "cannot write to /proc/none" in capsys.readouterr().err


def test_json_is_all_there_is_on_stdout_and_another_seed_differs(played, size, tmp_path, monkeypatch, capsys) -> None:
    whole = demo.run_demo
    monkeypatch.setattr(demo, "run_demo", lambda options, **rest: whole(options, **rest, size=size))
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--steps", "2", "--seed", "1", "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["steps"] == 2 and found["filled"]["given"] != played[0].filled.given
    assert "Questions about tables" in told.err and (tmp_path / "unmask-demo" / "report.html").is_file()
