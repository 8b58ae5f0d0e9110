"""Flags, files and other spellings together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.cli.aliases import ALIASES
from unmask.cli.config import parse, say
from unmask.cli.options import OptionTable
from unmask.cli.train import table
from unmask.generation.options import GenerationOptions
from unmask.training.arguments import Settings

Refusal = Callable[..., str]
Run = Callable[..., Settings]
BASE = ("--model_name_or_path", "m", "--dataset_args", "d.jsonl", "--output_dir", "o")
GENERATE = OptionTable("generate", "Continue prompts.", (GenerationOptions,), words="[PROMPT ...]")


def test_later_files_then_flags_win(settings_of: Run) -> None:
    Path("a.yaml").write_text("lr: 1e-4\nmax_length: 64\nnum_proc: 2\n")
    Path("b.yaml").write_text("learning_rate: 2e-4\nmax_length: 128\n")
    settings = settings_of("sft", "--max_length", "256", "--config", "a.yaml", *BASE, "--config=b.yaml")
    assert settings.trainer["learning_rate"] == 2e-4
    assert (settings.data.max_length, settings.data.num_proc) == (256, 2)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--lora"], True),
        (["--lora", "True"], True),
        (["--lora=true"], True),
        (["--lora", "false"], False),
        (["--lora", "no"], False),
        (["--lora", " "], True),
        (["--lora", "\\ "], True),
        (["\\", "--lora", "\n"], True),
        (["--lora", ""], True),
        (["--enable_lora"], True),
    ],
)
def test_booleans(settings_of: Run, argv: list[str], expected: bool) -> None:
    assert settings_of("sft", *BASE, *argv).model.lora is expected
    assert settings_of("sft", *argv, *BASE).model.lora is expected


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--target_modules", "q,k"], ["q", "k"]),
        (["--target_modules", "q", "k"], ["q", "k"]),
        (["--target_modules", "[q, k]"], ["q", "k"]),
        (["--target_modules", '["q", "k"]'], ["q", "k"]),
        (["--target_modules", "all-linear"], "all-linear"),
    ],
)
def test_lists(settings_of: Run, argv: list[str], expected: object) -> None:
    assert settings_of("sft", *BASE, "--lora", *argv).model.target_modules == expected


@pytest.mark.parametrize("argv", [["--task_type", "CAUSAL_LM"], ["--task_type=CAUSAL_LM"], ["--disable_caching"]])
def test_names_without_effect_take_their_value(
    settings_of: Run, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert settings_of("sft", *argv, *BASE) == settings_of("sft", *BASE)
    assert "has no effect" in capsys.readouterr().err


def test_text_stays_as_typed(settings_of: Run) -> None:
    for text in ("no", "1e-4", "a[train:10,test:2]", "{x}", "[a]", "x=y", "-1", "null,null", "模型"):
        settings = settings_of("sft", *BASE, f"--run_name={text}", "--output_dir", text)
        assert settings.trainer["run_name"] == settings.trainer["output_dir"] == text


def test_no_value_of_an_optional_setting(settings_of: Run) -> None:
    assert settings_of("sft", *BASE, "--adapter", "null").model.adapter is None


def test_several_text_files_are_joined(settings_of: Run) -> None:
    settings = settings_of("pretrain", "--model", "m", "--txt_files", "a.txt", "b.txt", "--output_dir", "o")
    assert settings.data.dataset_args == "a.txt+b.txt"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learing_rate", "1"], 'unknown option "--learing_rate". Did you mean "--learning_rate"?'),
        (["--learning-rate", "1"], 'unknown option "--learning-rate". Did you mean "--learning_rate"?'),
        (["--model-name-or-path=x"], 'Did you mean "--model_name_or_path"?'),
        (["--cofnig", "x"], 'Did you mean "--config"?'),
        (["--num_epoch", "1"], 'Did you mean "--num_train_epochs"?'),
        (["--max_seq_lenght", "1"], 'Did you mean "--max_length"?'),
        (["-lr", "1"], 'unknown option "-lr". Options begin with two dashes'),
        (["stray"], '"stray" belongs to no option.'),
        (["--lora", "True", "x"], '"x" belongs to no option.'),
        (["--lr", "1e-4x"], '--lr: "1e-4x" is not a number. Example: 1e-4'),
        (["--r", "8.5"], '--r: "8.5" is not a whole number.'),
        (["--lora", "maybe"], '--lora: "maybe" is not true or false.'),
        (["--lr"], "--lr needs a value."),
        (["--max_length", "--lora"], "--max_length needs a value."),
        (["--model", "x", "--model_name", "y"], "--model_name and --model both mean model_name_or_path"),
        (
            ["--group_by_length", "maybe"],
            '--group_by_length: "maybe" is not one of random, sequential, group_by_length.',
        ),
        (["--cfg", "1"], 'unknown option "--cfg"'),
        (["--lr_scheduler_type", "cosin"], 'Did you mean "cosine"?'),
    ],
)
def test_refused_flags(refusal: Refusal, argv: list[str], message: str) -> None:
    assert message in refusal("sft", *argv)


def test_the_same_value_twice_is_no_contradiction(settings_of: Run) -> None:
    assert settings_of("sft", *BASE, "--lr", "1e-4", "--learning_rate", "0.0001").trainer["learning_rate"] == 1e-4
    assert settings_of("sft", *BASE, "--r", "4", "--r", "8", "--lora").model.r == 8


def test_every_other_spelling_means_an_option_of_some_verb() -> None:
    later = {"adapter", "samples", "show", "model_name_or_path"}
    options = {*table("sft").types, *table("pretrain").types, *GENERATE.types, *later}
    assert {alias.target for alias in ALIASES.values()} - {""} <= options


@pytest.mark.parametrize(
    ("typed", "value", "name", "expected"),
    [
        ("model", "x", "model_name_or_path", "x"),
        ("model_path", "x", "model_name_or_path", "x"),
        ("pretrained", "x", "model_name_or_path", "x"),
        ("sft_json", "x.json", "dataset_args", "x.json"),
        ("epochs", "2", "num_train_epochs", 2.0),
        ("max_seq_length", "64", "max_length", 64),
        ("lora_r", "4", "r", 4),
        ("process_data", "true", "overwrite_cache", True),
        ("evaluation_strategy", "epoch", "eval_strategy", "epoch"),
        ("warmup_ratio", "0.03", "warmup_steps", 0.03),
        ("group_by_length", "true", "train_sampling_strategy", "group_by_length"),
        ("group_by_length", "false", "train_sampling_strategy", "random"),
        ("overwrite_output_dir", "true", "fresh", True),
        ("activation_checkpointing", "true", "gradient_checkpointing", True),
        ("lr", "1e-3", "learning_rate", 1e-3),
    ],
)
def test_other_spellings_of_training(tmp_path: Path, typed: str, value: str, name: str, expected: object) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"{typed}: {value}\n")
    for argv in ([f"--{typed}", value], ["--config", str(file)]):
        parsed = parse(argv, table("sft"))
        assert parsed is not None
        assert parsed[name] == expected
        assert [line for line in parsed.notes if line.startswith(f"note: {typed} is read as {name}")] == list(
            parsed.notes
        )
        assert len(parsed.notes) == 1


@pytest.mark.parametrize(
    ("typed", "value", "name", "expected"),
    [
        ("cfg", "1.5", "guidance_scale", 1.5),
        ("cfg_scale", "0.0", "guidance_scale", 0.0),
        ("gen_length", "64", "max_new_tokens", 64),
        ("block_length", "8", "block_size", 8),
        ("block_size", "null", "block_size", None),
        ("remasking", "low_confidence", "strategy", "confidence"),
        ("remasking", "random", "strategy", "random"),
        ("remasking_strategy", "low_confidence_dynamic", "strategy", "llada2"),
        ("alg", "topk_margin", "strategy", "margin"),
        ("alg", "maskgit_plus", "strategy", "confidence"),
        ("alg", "wino", "strategy", "revoke"),
        ("score", "topk_margin", "score", "margin"),
        ("alg_temp", "0.5", "score_temperature", 0.5),
        ("conf_threshold", "0.6", "threshold", 0.6),
        ("threshold", "null", "threshold", None),
        ("editing_threshold", "0.4", "edit_threshold", 0.4),
        ("top_k", "50", "top_k", 50),
        ("suppress_tokens", "1,2", "suppress_tokens", (1, 2)),
        ("suppress_tokens", "7", "suppress_tokens", (7,)),
    ],
)
def test_other_spellings_of_generation(typed: str, value: str, name: str, expected: object) -> None:
    parsed = parse(["a prompt", f"--{typed}", value], GENERATE)
    assert parsed is not None
    assert parsed.words == ("a prompt",)
    assert getattr(parsed.build(GenerationOptions), name) == expected


def test_a_batch_size_of_training_is_none_of_generation(refusal: Refusal) -> None:
    with pytest.raises(Exception, match='unknown option "--batch_size"'):
        parse(["--batch_size", "4"], GENERATE)


def test_notes_come_once_and_from_the_first_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(("note: a", "note: b", "note: a"))
    assert capsys.readouterr().err == "note: a\nnote: b\n"
    monkeypatch.setenv("RANK", "1")
    say(("note: a",))
    assert capsys.readouterr().err == ""
