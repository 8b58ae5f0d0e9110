"""`unmask generate --input --output`: what happens to outputs of other models, to places that cannot be written, to
inputs that are no files, and on Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tiny import write_checkpoint
from unmask.cli import sampling
from unmask.cli.main import main
from unmask.lm import DiffusionLM

SHORT = ("--max_new_tokens", "4", "--steps", "2", "--block_size", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "a")
    write_checkpoint(folder / "b", rope_theta=500000.0)
    return folder


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were loaded."""
    found: list[str] = []
    load = sampling.load_model

    def counted(parsed: Any) -> DiffusionLM:
        found.append(Path(parsed["model_name_or_path"]).name)
        return load(parsed)

    monkeypatch.setattr(sampling, "load_model", counted)
    return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, models: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("one.jsonl").write_text('{"prompt": "ab"}\n{"prompt": "c"}\n')

    def call(*argv: str, model: Path = models / "a", output: str = "o.jsonl") -> SimpleNamespace:
        words = ["generate", "--model", str(model), "--input", "one.jsonl", "--output", output, *SHORT, *argv]
        code = main(words)
        return SimpleNamespace(code=code, err=capsys.readouterr().err)

    return call


def test_a_complete_output_of_another_model_is_refused(run: Any, models: Path, loads: list[str]) -> None:
    assert run().code == 0 and loads == ["a"]
    before = Path("o.jsonl").read_bytes()
    assert "nothing was left to do" in run().err and loads == ["a"]
    other = run(model=models / "b")
    assert other.code == 2 and "o.jsonl is made of something else: weights" in other.err and loads == ["a", "b"]
    absent = run(model=models / "none")
    assert absent.code == 2 and "none" in absent.err and "nothing was left" not in absent.err
    narrow = run("--dtype", "bfloat16")
    assert narrow.code == 2 and "made of something else: weights" in narrow.err
    # a refusal changes nothing
    loads.clear()
    assert "nothing was left to do" in run().err and not loads
    assert Path("o.jsonl").read_bytes() == before


def test_a_setting_that_differs_is_told_without_loading(run: Any, models: Path, loads: list[str]) -> None:
    run()
    other = run("--seed", "9", model=models / "b")
    assert other.code == 2 and "made of something else: seed" in other.err and loads == ["a"]


def test_a_copy_of_the_model_goes_on(run: Any, models: Path, loads: list[str], tmp_path: Path) -> None:
    run()
    shutil.copytree(models / "a", tmp_path / "copy")
    for _ in range(2):
        assert "nothing was left to do" in run(model=tmp_path / "copy").err
    assert loads == ["a", "copy"]
    assert sorted(path.name for path in tmp_path.glob("o.jsonl*")) == ["o.jsonl", "o.jsonl.run.json"]


def test_weights_that_were_changed_in_place_are_noticed(run: Any, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "a", tmp_path / "m")
    assert run(model=tmp_path / "m").code == 0
    write_checkpoint(tmp_path / "m", rope_theta=500000.0)
    changed = run(model=tmp_path / "m")
    assert changed.code == 2 and "made of something else: weights" in changed.err


def test_an_output_that_says_nothing_of_the_model_s_place_is_gone_on_with(run: Any, loads: list[str]) -> None:
    run()
    beside = Path("o.jsonl.run.json")
    told = json.loads(beside.read_text())
    del told["remark"]
    beside.write_text(json.dumps(told))
    for _ in range(2):
        assert "nothing was left to do" in run().err
    assert loads == ["a", "a"]


@pytest.mark.skipif(sys.platform == "win32", reason="makes a pipe")
@pytest.mark.parametrize(
    ("output", "phrase"),
    [
        ("", "--output is empty"),
        ("x" * 256, "File name too long. Choose a shorter --output"),
        ("x" * 250, "File name too long. Choose a shorter --output"),
        ("one.jsonl/o.jsonl", "Not a directory. A folder in the path is a file"),
        ("one.jsonl/new/o.jsonl", "Not a directory. A folder in the path is a file"),
        (".", 'the output is "."; it must be a file'),
        ("folder", "folder is a folder. Name a file"),
        ("pipe", "pipe is no regular file"),
    ],
)
def test_a_place_for_no_output_is_told_first(run: Any, loads: list[str], output: str, phrase: str) -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe")
    for more in ((), ("--fresh",)):
        refused = run(*more, output=output)
        assert refused.code == 2 and phrase in refused.err and not loads
    assert sorted(path.name for path in Path().iterdir()) == ["folder", "one.jsonl", "pipe"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="has no /proc")
@pytest.mark.timeout(60)
def test_a_folder_in_which_no_file_can_be_made_is_told_first(run: Any, loads: list[str]) -> None:
    for output in ("/proc/o.jsonl", "/proc/new/o.jsonl"):
        refused = run(output=output)
        assert refused.code == 2 and f"cannot write {output}" in refused.err and not loads


@pytest.mark.skipif(sys.platform == "win32", reason="makes a pipe")
def test_an_input_that_is_no_file_is_told(run: Any) -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe.jsonl")
    for given, phrase in {
        "": "--input is empty. Name a file: --input prompts.jsonl",
        "folder": "folder is a folder. Give a file",
        "pipe.jsonl": "pipe.jsonl is no regular file",
        "o*.jsonl": "o*.jsonl: there is no such file, and patterns are not read",
    }.items():
        refused = run("--input", given)
        assert refused.code == 2 and phrase in refused.err
    assert "--output" not in run("--input", "folder").err


def test_options_that_are_refused_leave_nothing_behind(run: Any, tmp_path: Path) -> None:
    refused = run("--open_length", "true", "--cache", "dual")
    assert refused.code == 2 and "open_length" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["one.jsonl"]
    assert run("--open_length", "true").code == 0


def test_ctrl_c_says_what_is_kept(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.cli.generate_file import Teller

    tell = Teller.tell

    def stop(self: Teller, progress: Any) -> None:
        if progress.done == 1:
            raise KeyboardInterrupt
        tell(self, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Teller, "tell", stop)
        stopped = run("--batch_size", "1")
    assert stopped.code == 130
    assert "interrupted: 1 row is kept beside o.jsonl; the same command goes on with the others." in stopped.err
    assert "1 rows generated now" in run().err
