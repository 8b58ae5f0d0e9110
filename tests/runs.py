"""Fixtures: a tiny checkpoint, data, and settings of a run over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings
from unmask.training.grouped import GroupedOrder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_conversations(tmp_path_factory.mktemp("data") / "conversations.jsonl")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_texts(tmp_path_factory.mktemp("data") / "texts.jsonl")


@pytest.fixture
def settings(checkpoint: Path, conversations: Path, tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a short run; keywords go to the part that has them, the rest to transformers."""

    def make(**changes: Any) -> Settings:
        parts: list[Any] = [
            ModelArguments(model_name_or_path=str(checkpoint)),
            DataArguments(dataset_args=str(conversations), max_length=96),
            ObjectiveArguments(),
            RunArguments(report=False),
        ]
        trainer: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "seed": 3,
        }
        for name, value in changes.items():
            owner = next((i for i, part in enumerate(parts) if hasattr(part, name)), None)
            if owner is None:
                trainer[name] = value
            else:
                parts[owner] = replace(parts[owner], **{name: value})
        return Settings(*parts, trainer)

    return make


@pytest.fixture
def rows_apart(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called, packed documents have the same plan, times and ends, but each a row of its own."""

    def lay_apart() -> None:
        groups = GroupedOrder.groups
        monkeypatch.setattr(
            GroupedOrder,
            "groups",
            lambda plan, update: [[replace(visit, bin=None) for visit in row] for row in groups(plan, update)],
        )

    return lay_apart
