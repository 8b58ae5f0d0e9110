"""An interrupted run ends with the same bits as one that was left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from unmask.errors import ConfigError, ModelError
from unmask.training.arguments import Settings
from unmask.training.run import train

# a schedule that does not know the end, so that stopping early is not another recipe
STEADY = {"lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 2, "logging_steps": 1}


def learned(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Reports without what was measured of the machine."""
    measured = ("tokens_per_second", "padded_tokens_per_second", "mfu", "peak_memory")
    return [
        {name: value for name, value in line.items() if name not in measured and not name.startswith("time_")}
        for line in history
    ]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "dataloader_num_workers": 2},
        {"lora": True, "r": 4, "lora_dropout": 0.2},
        {"train_sampling_strategy": "group_by_length", "random_length_ratio": 0.5},
        {"packing": True, "per_device_train_batch_size": 2, "dataloader_num_workers": 1},
        {"tokens_per_batch": 300},
    ],
    ids=["plain", "accumulation-workers", "adapter-dropout", "grouped-cropped", "packed", "by-tokens"],
)
def test_resumed_run_is_bit_identical(settings: Callable[..., Settings], tmp_path: Path, more: dict) -> None:
    alone = train(settings(output_dir=str(tmp_path / "alone"), max_steps=6, **{**STEADY, **more}), verb="sft")
    target = str(tmp_path / "stopped")
    train(settings(output_dir=target, max_steps=2, **{**STEADY, **more}), verb="sft")
    resumed = train(settings(output_dir=target, max_steps=6, **{**STEADY, **more}), verb="sft")
    files = [path.name for path in alone.folder.glob("*.safetensors")]
    assert files
    for name in files:
        one, two = load_file(alone.folder / name), load_file(resumed.folder / name)
        assert all(one[key].equal(two[key]) for key in one)
    assert learned(alone.history) == learned(resumed.history)


@pytest.mark.parametrize("packing", [False, True])
def test_streamed_run_resumes_bit_identical(
    settings: Callable[..., Settings], tmp_path: Path, texts: Path, packing: bool
) -> None:
    more = {**STEADY, "streaming": True, "dataset_args": str(texts), "max_length": 32, "random_length_ratio": 0.2}
    more |= {"packing": packing}
    alone = train(settings(output_dir=str(tmp_path / "alone"), max_steps=6, **more), verb="pretrain")
    target = str(tmp_path / "stopped")
    train(settings(output_dir=target, max_steps=2, **more), verb="pretrain")
    resumed = train(settings(output_dir=target, max_steps=6, **more), verb="pretrain")
    one, two = (load_file(run.folder / "model.safetensors") for run in (alone, resumed))
    assert all(one[key].equal(two[key]) for key in one)


def test_a_finished_run_is_left_alone(settings: Callable[..., Settings]) -> None:
    first = train(settings(**STEADY), verb="sft")
    again = train(settings(**STEADY), verb="sft")
    assert again.seconds == 0.0
    assert again.history == first.history


def test_another_recipe_is_refused_with_the_difference(settings: Callable[..., Settings]) -> None:
    train(settings(**STEADY), verb="sft")
    with pytest.raises(ConfigError, match=r"different run \(learning_rate 0.01 -> 0.5\).*--fresh"):
        train(settings(**STEADY, learning_rate=0.5), verb="sft")


def test_a_run_from_before_an_option_existed_is_the_same_run(settings: Callable[..., Settings], tmp_path: Path) -> None:
    train(settings(**STEADY), verb="sft")
    path = tmp_path / "run" / "recipe.json"
    written = json.loads(path.read_text())
    del written["recipe"]["time_epsilon"]
    path.write_text(json.dumps(written))
    assert train(settings(**STEADY), verb="sft").seconds == 0.0
    with pytest.raises(ConfigError, match=r"time_epsilon 0.001 -> 0.1"):
        train(settings(**STEADY, time_epsilon=0.1), verb="sft")


def test_fresh_moves_the_old_run_aside(settings: Callable[..., Settings], tmp_path: Path) -> None:
    train(settings(**STEADY), verb="sft")
    train(settings(**STEADY, learning_rate=0.5, fresh=True), verb="sft")
    assert json.loads((tmp_path / "run.1" / "recipe.json").read_text())["recipe"]["learning_rate"] == 0.01
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]["learning_rate"] == 0.5


def test_a_checkpoint_without_optimizer_says_so(settings: Callable[..., Settings]) -> None:
    train(settings(**STEADY, max_steps=2, save_only_model=True), verb="sft")
    with pytest.raises(ModelError, match="optimizer state is missing"):
        train(settings(**STEADY, max_steps=4), verb="sft")


def test_no_pickle_in_a_checkpoint(settings: Callable[..., Settings], tmp_path: Path) -> None:
    train(settings(**STEADY), verb="sft")
    suffixes = {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert suffixes <= {"", ".json", ".jsonl", ".safetensors", ".jinja", ".md"}  # without any: the lock


def test_rotation_keeps_the_newest(settings: Callable[..., Settings], tmp_path: Path) -> None:
    train(settings(**{**STEADY, "save_steps": 1}, max_steps=5, save_total_limit=2), verb="sft")
    assert sorted(p.name for p in (tmp_path / "run").glob("checkpoint-*")) == [
        "checkpoint-4",
        "checkpoint-5",
        "checkpoint-final",
    ]
