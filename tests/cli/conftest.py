"""A double of `unmask.training.run` that keeps the settings it is given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import unmask.training
from unmask.cli.main import main
from unmask.training.arguments import Settings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Settings]]:
    """(`describe` or `train`, verb, settings) of each run that the command line starts."""
    calls: list[tuple[str, str, Settings]] = []

    class Plan:
        def __str__(self) -> str:
            return "described"

        def to_json(self) -> str:
            return '{"parameters": 7}'

    def describe(settings: Settings, *, verb: str) -> Plan:
        calls.append(("describe", verb, settings))
        return Plan()

    def train(settings: Settings, *, verb: str, console: object = None) -> SimpleNamespace:
        calls.append(("train", verb, settings))
        return SimpleNamespace(folder=Path("out/checkpoint-final"), metrics={"loss": 1.5}, seconds=2.0, stopped=None)

    double = ModuleType("unmask.training.run")
    double.describe, double.train = describe, train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unmask.training.run", double)
    monkeypatch.setattr(unmask.training, "run", double, raising=False)
    return calls


@pytest.fixture
def settings_of(
    started: list[tuple[str, str, Settings]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Settings]:
    """Runs a training verb with `--dry_run` in an empty folder and returns the settings it arrived at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(verb: str, *argv: str) -> Settings:
        assert main([verb, *argv, "--dry_run"]) == 0
        return started[-1][2]

    return run


@pytest.fixture
def refusal(
    started: list[tuple[str, str, Settings]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., str]:
    """Runs a command that must end with exit code 2, one paragraph on stderr and nothing started or written."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(list(argv)) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert "Traceback" not in told.err
        assert not started
        assert sorted(tmp_path.rglob("*")) == before
        (message,) = [line for line in told.err.splitlines() if not line.startswith("note: ")]
        return message.removeprefix("unmask: ")

    return run
