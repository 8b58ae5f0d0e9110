"""The command of a run, typed again, leads to the same settings."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import *  # noqa: F403  (the double that keeps the settings)
from unmask.cli.main import main
from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings
from unmask.training.command import command_of

BASE = ("--model_name_or_path", "a folder/model", "--dataset_args", "x.jsonl[train:5,test:2]", "--output_dir", "out")


@pytest.mark.parametrize(
    ("verb", "more"),
    [
        ("sft", ()),
        ("sft", ("--lora", "--r", "8", "--target_modules", "q_proj,v_proj", "--learning_rate", "3e-4", "--bf16")),
        ("sft", ("--report", "false", "--train_sampling_strategy", "group_by_length")),
        ("sft", ("--sample_prompts", "red, blue", "--sample_prompts=--odd 'one'", "--sample_every", "5")),
        ("sft", ("--eval_strategy", "no", "--mask_prompt_loss", "false", "--report_to", "none")),
        ("sft", ("--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs", '{"min_lr": 1e-6}')),
        ("pretrain", ("--max_steps", "100000", "--noise_schedule", "cosine", "--streaming", "false")),
        ("pretrain", ("--warmup_steps", "0", "--gradient_checkpointing", "--checkpointing_strategy", "one_in_two")),
    ],
)
def test_typed_again_it_means_the_same(settings_of, verb: str, more: tuple[str, ...]) -> None:
    settings = settings_of(verb, *BASE, *more)
    words = shlex.split(command_of(settings, verb))
    assert words[:2] == ["unmask", verb] and "--dry_run" not in words
    assert settings_of(verb, *words[2:]) == settings


def test_what_python_left_out_is_transformers_default(started, tmp_path: Path, monkeypatch) -> None:
    """The command line has other defaults than the library: a run made in Python must not get them by its command."""
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        ModelArguments(model_name_or_path="m"),
        DataArguments(dataset_args="x.jsonl[test:3]"),
        ObjectiveArguments(),
        RunArguments(),
        {"output_dir": "out", "learning_rate": 1e-3},
    )
    words = shlex.split(command_of(settings, "sft"))
    assert main([*words[1:], "--dry_run"]) == 0
    trainer = started[-1][2].trainer
    assert (trainer["eval_strategy"], trainer["warmup_steps"], trainer["lr_scheduler_type"]) == ("no", 0, "linear")
    assert (trainer["learning_rate"], trainer["num_train_epochs"]) == (1e-3, 3.0)


def test_several_processes_are_launched() -> None:
    settings = Settings(trainer={"output_dir": "out"})
    assert command_of(settings, "sft", ranks=4).startswith("accelerate launch --num_processes 4 -m unmask sft ")
