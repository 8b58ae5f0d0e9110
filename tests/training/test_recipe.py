"""A run is gone on with only as it was begun, but for what is allowed by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from unmask.errors import ConfigError
from unmask.training.arguments import Settings
from unmask.training.run import train

Make = Callable[..., Settings]
BEGUN = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}


@pytest.fixture
def begun(settings: Make) -> Make:
    train(settings(**BEGUN), verb="sft")
    return lambda **changes: settings(**{**BEGUN, "max_steps": 2, **changes})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 4),
        ("learning_rate", 0.5),
        ("lr_scheduler_type", "linear"),
        ("weight_decay", 0.1),
        ("max_grad_norm", 0.5),
        ("per_device_train_batch_size", 4),
        ("gradient_accumulation_steps", 2),
        ("max_length", 64),
        ("noise_schedule", "cosine"),
        ("loss_weight", "uniform"),
        ("padding", "none"),
        ("lora", True),
    ],
)
def test_twelve_changes_are_refused_with_both_values(begun: Make, name: str, value: object) -> None:
    shown = name if "batch" not in name and "accumulation" not in name else "samples_per_update"
    told = rf"different run \(.*{shown} \S+ -> .*--fresh.*--allow_change [a-z_,]*{shown}"
    with pytest.raises(ConfigError, match=told):
        train(begun(**{name: value}), verb="sft")


def test_an_update_may_be_shared_out_differently(begun: Make, tmp_path: Path) -> None:
    result = train(begun(per_device_train_batch_size=2, gradient_accumulation_steps=4), verb="sft")
    assert [line["step"] for line in result.history if "loss" in line] == [1, 2]


def test_what_is_allowed_by_name_takes_effect(begun: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    faster = begun(learning_rate=0.5, weight_decay=0.1, allow_change="learning_rate")
    with pytest.raises(ConfigError, match=r"\(weight_decay None -> 0.1\)"):
        train(faster, verb="sft")
    both = replace(faster, run=replace(faster.run, allow_change="learning_rate, weight_decay"))
    result = train(both, verb="sft")
    assert "going on with learning_rate 0.01 -> 0.5, as allowed" in " ".join(capsys.readouterr().out.split())
    assert [line["learning_rate"] for line in result.history if "loss" in line] == [0.01, 0.5]
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "optimizer.json").read_text())
    assert {group["weight_decay"] for group in state["param_groups"]} >= {0.1}
    # from now on that is the recipe
    assert train(begun(learning_rate=0.5, weight_decay=0.1), verb="sft").seconds == 0.0


def test_a_name_that_decides_nothing_is_an_error(begun: Make) -> None:
    with pytest.raises(ConfigError, match=r'"learning_rat" is nothing that decides.*Did you mean "learning_rate"'):
        train(begun(learning_rate=0.5, allow_change="learning_rat"), verb="sft")


def test_other_data_under_the_same_name(settings: Make, conversations: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    shutil.copy(conversations, file)
    train(settings(**BEGUN, dataset_args=str(file)), verb="sft")
    rows = file.read_text().splitlines()
    file.write_text("\n".join(rows[:-1]) + "\n")
    again = {**BEGUN, "max_steps": 2, "dataset_args": str(file)}
    with pytest.raises(ConfigError, match=r"data 40 rows, \w+ -> 39 rows, \w+\).*--allow_change data"):
        train(settings(**again), verb="sft")
    assert train(settings(**again, allow_change="data"), verb="sft").seconds > 0


def test_one_changed_word_is_other_data(settings: Make, conversations: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    shutil.copy(conversations, file)
    train(settings(**BEGUN, dataset_args=str(file)), verb="sft")
    record = json.loads(file.read_text().splitlines()[0])
    record["messages"][-1]["content"] = record["messages"][-1]["content"][::-1]
    file.write_text("\n".join([json.dumps(record), *file.read_text().splitlines()[1:]]) + "\n")
    with pytest.raises(ConfigError, match=r"different run \(data 40 rows"):
        train(settings(**{**BEGUN, "max_steps": 2}, dataset_args=str(file)), verb="sft")
