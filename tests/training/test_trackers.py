"""Trackers: told what a run reports, under the names their users set, and unable to stop it. None is real but one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from transformers import TrainerCallback

from unmask.errors import ResourceError
from unmask.training import trackers
from unmask.training.arguments import Settings
from unmask.training.run import train
from unmask.training.trackers import Guarded, tracker_callbacks, tracker_names

Make = Callable[..., Settings]


@pytest.fixture
def screen(tmp_path: Path) -> Console:
    return Console(record=True, width=200, file=(tmp_path / "screen").open("w"))


def pretend(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> ModuleType:
    """A module that is not installed here."""
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    for key, value in contents.items():
        setattr(made, key, value)
    monkeypatch.setitem(sys.modules, name, made)
    return made


class Noted(TrainerCallback):
    """Remembers what it was made with and told."""

    made: list[dict[str, Any]] = []

    def __init__(self, **words: Any) -> None:
        self.told: list[dict[str, float]] = []
        Noted.made.append(words)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.told.append(logs)


def test_none_by_default(settings: Make, screen: Console) -> None:
    assert tracker_names(settings(report_to=None)) == []
    assert tracker_callbacks(settings(), screen) == []


def test_tensorboard_writes_under_the_run(settings: Make, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(settings(report_to="tensorboard"), verb="sft")
    assert list((tmp_path / "run" / "logs").rglob("events.out.tfevents.*"))
    elsewhere = tmp_path / "elsewhere"
    train(settings(report_to=["tensorboard"], logging_dir=str(elsewhere), output_dir=str(tmp_path / "2")), verb="sft")
    assert list(elsewhere.rglob("events.out.tfevents.*"))
    assert not (tmp_path / "2" / "logs").exists()


def test_swanlab_is_told_by_its_own_callback(settings: Make, monkeypatch, screen: Console) -> None:
    for name in ("swanlab", "swanlab.integration"):
        pretend(monkeypatch, name)
    pretend(monkeypatch, "swanlab.integration.transformers", SwanLabCallback=Noted)
    monkeypatch.setattr(Noted, "made", [])
    monkeypatch.setenv("SWANLAB_PROJECT", "tables")
    (held,) = tracker_callbacks(settings(report_to="swanlab", run_name="first"), screen)
    monkeypatch.delenv("SWANLAB_PROJECT")
    tracker_callbacks(settings(report_to="swanlab"), screen)
    assert Noted.made == [{"project": "tables", "experiment_name": "first"}, {}]
    held.on_log(None, None, None, logs={"loss": 1.0})
    assert held._inner.told == [{"loss": 1.0}]


def test_wandb_keeps_its_project(settings: Make, monkeypatch, screen: Console) -> None:
    begun: list[dict[str, Any]] = []

    def init(**words: Any) -> None:
        begun.append(words)
        raise ConnectionError("no network today")

    pretend(monkeypatch, "wandb", init=init, run=None)
    for name in ("wandb.sdk", "wandb.sdk.lib"):
        pretend(monkeypatch, name)
    pretend(monkeypatch, "wandb.sdk.lib.config_util", ConfigError=ValueError)
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: True)
    monkeypatch.setenv("WANDB_PROJECT", "tables")
    run = train(settings(report_to="wandb", run_name="second"), verb="sft", console=screen)
    assert run.folder.is_dir()
    assert len(begun) == 1 and (begun[0]["project"], begun[0]["name"]) == ("tables", "second")
    assert screen.export_text().count("wandb is told nothing more about this run (ConnectionError: no network") == 1


@pytest.mark.parametrize("event", ["on_init_end", "on_train_begin", "on_log", "on_save", "on_train_end"])
def test_a_tracker_that_fails_stops_nothing(settings: Make, monkeypatch, screen: Console, event: str) -> None:
    calls = []

    def fail(self: Any, *_: Any, **__: Any) -> None:
        calls.append(1)
        raise RuntimeError("the service is gone")

    failing = type("Failing", (TrainerCallback,), {event: fail})
    monkeypatch.setattr(trackers, "_made", lambda name, settings: failing())
    run = train(settings(report_to="wandb", save_strategy="steps", save_steps=1), verb="sft", console=screen)
    assert run.folder.is_dir() and len(calls) == 1
    assert screen.export_text().count("warning: wandb is told nothing more") == 1


def test_a_user_can_still_interrupt_a_tracker(screen: Console) -> None:
    class Slow(TrainerCallback):
        def on_log(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guarded(Slow(), "slow", screen).on_log(None, None, None)  # type: ignore[arg-type]


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_written(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "swanlab", None)
    with pytest.raises(ResourceError, match="report_to: swanlab cannot be used.*Install it"):
        train(settings(report_to="swanlab"), verb="sft")
    assert not (tmp_path / "run").exists()
