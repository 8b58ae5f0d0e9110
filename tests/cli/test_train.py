"""What arguments of `pretrain` and `sft` mean together, and what they may not be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.cli.main import main
from unmask.training.arguments import Settings

Refusal = Callable[..., str]
Run = Callable[..., Settings]
Started = list[tuple[str, str, Settings]]
BASE = ("--model_name_or_path", "m", "--dataset_args", "d.jsonl", "--output_dir", "o")


def test_a_run_is_trained_and_told(started: Started, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", *BASE]) == 0
    assert [call[:2] for call in started] == [("train", "pretrain")]
    assert capsys.readouterr().out == "saved out/checkpoint-final after 2 s\n"
    assert main(["sft", *BASE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": "out/checkpoint-final", "seconds": 2.0, "loss": 1.5}


def test_a_dry_run_is_described(
    started: Started, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["sft", *BASE, "--dry_run"]) == 0
    assert [call[:2] for call in started] == [("describe", "sft")]
    assert capsys.readouterr().out == "described\n"
    assert main(["sft", *BASE, "--dry_run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"parameters": 7}
    monkeypatch.setenv("RANK", "1")
    assert main(["sft", *BASE, "--dry_run"]) == 0
    assert capsys.readouterr().out == ""


def test_a_dry_run_needs_no_output_folder(settings_of: Run) -> None:
    assert settings_of("sft", "--model", "m", "--dataset_args", "d").trainer.get("output_dir") is None


def test_the_environment_of_a_launcher_is_left_alone(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    world = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert main(["sft", "--local_rank=0", *BASE]) == 0
    assert dict(os.environ) == before
    assert "local_rank" not in started[0][2].trainer


def test_defaults_of_the_verbs(settings_of: Run) -> None:
    sft, pretrain = settings_of("sft", *BASE).trainer, settings_of("pretrain", *BASE).trainer
    assert (sft["learning_rate"], pretrain["learning_rate"]) == (2e-5, 3e-4)
    assert (sft["num_train_epochs"], pretrain["num_train_epochs"]) == (3.0, 1.0)
    for trainer in (sft, pretrain):
        assert trainer["lr_scheduler_type"] == "cosine"
        assert trainer["warmup_steps"] == 0.1
        assert trainer["report_to"] == "none"
        assert "bf16" not in trainer


@pytest.mark.parametrize(("steps", "warmup"), [("1000", 0.1), ("20000", 0.1), ("100000", 2000)])
def test_a_long_pretraining_run_warms_up_for_2000_steps(settings_of: Run, steps: str, warmup: float) -> None:
    assert settings_of("pretrain", *BASE, "--max_steps", steps).trainer["warmup_steps"] == warmup


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], (None, None)),
        (["--dataset_args", "d[test:10]"], ("steps", 0.1)),
        (["--dataset_args", "d[train:5,test:5%]+e"], ("steps", 0.1)),
        (["--eval_dataset_args", "e.jsonl"], ("steps", 0.1)),
        (["--eval_dataset_args", "e.jsonl", "--eval_steps", "50"], ("steps", 50)),
        (["--eval_dataset_args", "e.jsonl", "--eval_strategy", "no"], ("no", None)),
        (["--eval_on_start"], ("steps", 0.1)),
    ],
)
def test_rows_named_for_evaluation_are_used(settings_of: Run, argv: list[str], expected: tuple[object, object]) -> None:
    trainer = settings_of("sft", "--model", "m", "--dataset_args", "d.jsonl", *argv).trainer
    assert (trainer.get("eval_strategy"), trainer.get("eval_steps")) == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning_rate", "-0.1"], "--learning_rate must be > 0; got -0.1."),
        (["--lr", "0"], "--lr must be > 0; got 0.0."),
        (["--lr", ".nan"], "--lr must be > 0; got nan."),
        (["--lr", "inf"], '--lr: "inf" is not a number.'),
        (["--lr", ".inf"], "--lr must be > 0; got inf."),
        (["--time_epsilon", "1.5"], "--time_epsilon must be in (0, 1); got 1.5."),
        (["--time_epsilon", "0"], "--time_epsilon must be in (0, 1); got 0.0."),
        (["--max_length", "0"], "--max_length must be >= 1; got 0."),
        (["--max_steps", "0"], "--max_steps must be >= 1, or -1 to count epochs; got 0."),
        (["--batch_size", "0"], "--batch_size must be >= 1; got 0."),
        (["--save_steps", "0"], "--save_steps must be > 0; got 0."),
        (["--save_total_limit", "0"], "must be >= 2, so one complete checkpoint always remains; got 0."),
        (["--lora", "--lora_dropout", "1"], "--lora_dropout must be in [0, 1); got 1.0."),
        (["--r", "8"], "--r is set but lora is off; it would be ignored. Add --lora, or leave it out."),
        (["--lora", "false", "--rank", "8"], "--rank is set but lora is off"),
        (["--load_in_4bit"], "--load_in_4bit: quantised weights cannot be trained. Add --lora."),
        (["--lora", "--load_in_4bit", "--load_in_8bit"], "load_in_4bit and load_in_8bit exclude each other"),
        (
            ["--padding", "block", "--max_length", "1000"],
            "max_length (1000) must be a multiple of block_size (32). Nearest: 992 or 1024.",
        ),
        (["--padding", "block", "--max_length", "8"], "must be a multiple of block_size (32). Nearest: 32."),
        (["--bf16", "--fp16"], "bf16 and fp16 exclude each other"),
        (["--checkpointing_strategy", "one_in_two"], "is set but gradient_checkpointing is off"),
        (["--noise_schedule", "cosin"], 'noise_schedule: "cosin" is not one of cosine, linear'),
        (["--noise_schedule", "cosin"], 'Did you mean "cosine"?'),
        (["--optim", "lomo"], "lomo updates weights during the backward pass"),
        (["--optim", "galore_adamw_layerwise"], "updates weights during the backward pass"),
        (["--load_best_model_at_end"], "load_best_model_at_end needs evaluation"),
        (["--eval_on_start", "--eval_strategy", "no"], "--eval_on_start needs evaluation. Add --eval_strategy steps."),
        (
            ["--load_best_model_at_end", "--eval_strategy", "epoch"],
            "needs eval_strategy and save_strategy to be equal; got epoch and steps.",
        ),
        (
            ["--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "30", "--save_steps", "100"],
            "needs save_steps (100) to be a multiple of eval_steps (30)",
        ),
        (["--dataloader_prefetch_factor", "2"], "dataloader_prefetch_factor needs dataloader_num_workers above 0"),
        (["--mode", "pretrain"], '--mode is "pretrain" but the command is sft. Use: unmask pretrain'),
        (["--dataset_args", "d[tran:5]"], "tran"),
        (["--output_dir", ""], "--output_dir is empty"),
        (["--report_to", "tensorbord"], 'Did you mean "tensorboard"?'),
        (["--report_to", "wandb", "x"], '--report_to: "x" is not one of none, all,'),
        (["--metric_for_best_model", "accuracy"], '"accuracy" is not one of loss, nll, unscaled_loss.'),
        (["--lr_scheduler_type", "warmup_stable_decay"], "needs num_decay_steps in lr_scheduler_kwargs"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "needs min_lr or min_lr_rate in lr_scheduler_kwargs"),
        (["--create_example_data"], "--create_example_data and --dataset_args both name data; give one."),
        (["--push_to_hub"], "--push_to_hub is not supported: nothing is uploaded by a training run"),
        (["--label_smoothing_factor", "0.1"], "is not supported: a smoothed loss is no bound on the likelihood."),
        (["--neftune_noise_alpha", "5"], "is not supported: noise on embeddings"),
        (["--auto_find_batch_size"], "is not supported: it would change the batch unseen"),
    ],
)
def test_refused_settings(refusal: Refusal, argv: list[str], message: str) -> None:
    assert message in refusal("sft", *BASE, *argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no model is named. Give --model_name_or_path FOLDER_OR_HUB_ID."),
        (["--model", "m"], "no data is named. Give --dataset_args"),
        (["--model", "m", "--dataset_args", "d"], "no output folder is named. Give --output_dir FOLDER."),
    ],
)
@pytest.mark.parametrize("verb", ["sft", "pretrain"])
def test_what_must_be_named(refusal: Refusal, verb: str, argv: list[str], message: str) -> None:
    assert message in refusal(verb, *argv)


def test_the_place_in_the_file_is_named(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("max_length: 10\nlr: -0.1\n")
    assert refusal("sft", *BASE, "--config", "sft.yaml") == "sft.yaml:2:1 lr must be > 0; got -0.1."


def test_an_output_folder_that_is_a_file(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in ("file", "file/below"):
        told = refusal("sft", "--model", "m", "--dataset_args", "d", "--output_dir", folder)
        assert "file is a file, not a folder. Choose another output_dir." in told


def test_an_output_folder_that_cannot_be_written(
    refusal: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # root may write anywhere, so the answer of the system is replaced.
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path)
    told = refusal("sft", "--model", "m", "--dataset_args", "d", "--output_dir", "a/b")
    assert told.startswith("--output_dir: cannot write to") and "permission denied" in told


def test_unusual_settings_are_noted(settings_of: Run, capsys: pytest.CaptureFixture[str]) -> None:
    settings_of("sft", *BASE, "--lr", "3", "--drop_tail", "false", "--do_train", "--mode", "sft")
    told = capsys.readouterr().err
    assert "warning: learning_rate 3.0 is 3,000 times the largest usual one (1e-5 to 1e-3)" in told
    assert "note: drop_tail has no effect in sft" in told
    assert "note: do_train has no effect (the command says what is done)" in told
    assert "note: mode has no effect" in told
    assert settings_of("sft", *BASE, "--resume_from_checkpoint", "a/checkpoint-5").trainer["resume_from_checkpoint"]
    settings_of("sft", *BASE, "--resume_from_checkpoint", "True")
    assert "a run always resumes" in capsys.readouterr().err


def test_transformers_own_default_is_always_fine(settings_of: Run, capsys: pytest.CaptureFixture[str]) -> None:
    settings_of(
        "sft", *BASE, "--push_to_hub", "False", "--label_smoothing_factor", "0.0", "--neftune_noise_alpha", "null"
    )
    assert capsys.readouterr().err == ""


def test_a_job_has_its_folder_below_the_output_folder(settings_of: Run) -> None:
    trainer = settings_of("sft", "--model", "m", "--dataset_args", "d", "--output_dir", "a/", "--job_name", "j").trainer
    assert (trainer["output_dir"], trainer["run_name"]) == ("a/j", "j")
    trainer = settings_of("sft", *BASE, "--job_name", "j", "--run_name", "n").trainer
    assert (trainer["output_dir"], trainer["run_name"]) == ("o/j", "n")


def test_a_tracker_that_is_absent(refusal: Refusal, settings_of: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.cli.rules.find_spec", lambda name: None)
    told = refusal("sft", *BASE, "--report_to", "wandb")
    assert told == "--report_to: wandb is not installed. Install it: pip install wandb"
    assert settings_of("sft", *BASE, "--report_to", "wandb").trainer["report_to"] == "wandb"


@pytest.mark.parametrize(("argv", "expected"), [([], False), (["--greater_is_better", "True"], True)])
def test_less_is_better(settings_of: Run, argv: list[str], expected: bool) -> None:
    # transformers takes every metric whose name does not end in "loss" for one of which more is better.
    trainer = settings_of("sft", *BASE, "--metric_for_best_model", "nll", *argv).trainer
    assert trainer["greater_is_better"] is expected


@pytest.mark.parametrize(("verb", "named"), [("sft", "example:tables"), ("pretrain", "example:text")])
def test_example_data_is_a_source(settings_of: Run, verb: str, named: str) -> None:
    assert settings_of(verb, "--model", "m", "--create_example_data").data.dataset_args == named
