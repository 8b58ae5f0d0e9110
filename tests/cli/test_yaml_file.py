"""Configuration files: YAML 1.2, places in messages, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.cli.yaml_file import Given, read_yaml
from unmask.training.arguments import Settings

Refusal = Callable[..., str]
Run = Callable[..., Settings]
BASE = ("--model_name_or_path", "m", "--dataset_args", "d.jsonl", "--output_dir", "o")


def write(text: str | bytes, name: str = "sft.yaml") -> str:
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    return name


def test_settings_keep_their_place(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("r: 8\n\ntrain:\n  lr: 1e-4\n  names: [a, 'b']\nkwargs: {min_lr: 1e-6, n: 0x10, on: no, x: True}\n")
    assert read_yaml(str(file), frozenset({"kwargs"})) == [
        Given("r", "8", "a.yaml:1:1"),
        Given("lr", "1e-4", "a.yaml:4:3", "train"),
        Given("names", ["a", "b"], "a.yaml:5:3", "train"),
        Given("kwargs", {"min_lr": 1e-6, "n": 16, "on": "no", "x": True}, "a.yaml:6:1"),
    ]


def test_numbers_and_words_as_yaml_1_2_reads_them(settings_of: Run) -> None:
    text = (
        "learning_rate: 1e-4\neval_strategy: no\nbf16: True\nlora: true\nrun_name: 2024\nlr_scheduler_kwargs:\n"
        "  num_cycles: 2\nmax_grad_norm: 1\nadapter:\ntarget_modules: [q_proj, k_proj]\n"
        "report_to: [wandb, tensorboard]\nweight_decay: '0.1'\nmax_steps: -1\nadam_epsilon: 1.0E-8\n"
    )
    trainer = settings_of("sft", *BASE, "--config", write(text)).trainer
    assert trainer["learning_rate"] == 1e-4
    assert trainer["eval_strategy"] == "no"
    assert trainer["bf16"] is True
    assert trainer["run_name"] == "2024"
    assert trainer["lr_scheduler_kwargs"] == {"num_cycles": 2}
    assert trainer["max_grad_norm"] == 1.0
    assert trainer["report_to"] == ["wandb", "tensorboard"]
    assert trainer["weight_decay"] == 0.1
    assert trainer["max_steps"] == -1
    assert trainer["adam_epsilon"] == 1e-8


BOMB = "a: &a [x, x]\nb: &b [*a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b]\nd: [*c, *c, *c, *c, *c, *c]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_length: 64\n\ntime_epsilom: 0.1\n",
            'sft.yaml:3:1 unknown key "time_epsilom". Did you mean "time_epsilon"?',
        ),
        ("nois_schedule: cosine\n", 'sft.yaml:1:1 unknown key "nois_schedule". Did you mean "noise_schedule"?'),
        ("evaluation_stratgy: 'no'\n", 'Did you mean "eval_strategy"?'),
        ("lora_rnak: 1\nqqqq: 1\n", 'sft.yaml:1:1 unknown key "lora_rnak".'),
        ("lora_rnak: 1\nqqqq: 1\n", 'sft.yaml:2:1 unknown key "qqqq".'),
        ("config: a.yaml\n", 'sft.yaml:1:1 unknown key "config".'),
        ("qqqq: 1\n", 'sft.yaml:1:1 unknown key "qqqq". See unmask sft --help.'),
        ("\n\nx:\n  lr: 1e-4x\n", 'sft.yaml:4:3 lr: "1e-4x" is not a number. Example: 1e-4'),
        ("max_length: 10.5\n", 'sft.yaml:1:1 max_length: "10.5" is not a whole number. Example: 8'),
        ("lora: maybe\n", 'sft.yaml:1:1 lora: "maybe" is not true or false. Example: true'),
        ("padding: blok\n", 'padding: "blok" is not one of eos, none, block, max_length. Did you mean "block"?'),
        ("eval_strategy: stepz\n", 'eval_strategy: "stepz" is not one of no, steps, epoch. Did you mean "steps"?'),
        ("noise_schedule: cosin\n", 'sft.yaml:1:1 noise_schedule: "cosin" is not one of cosine, linear'),
        ("learning_rate: [1, 2]\n", "sft.yaml:1:1 learning_rate: [1, 2] is not a number. Example: 1e-4"),
        ("learning_rate:\n", "sft.yaml:1:1 learning_rate has no value. Example: 1e-4"),
        ("lr: 1\n# a\nlr: 2\n", 'sft.yaml: key "lr" given twice (lines 1 and 3).'),
        ("a:\n  lr: 1\n  lr: 2\n", 'sft.yaml: key "lr" given twice (lines 2 and 3).'),
        ("a:\n  lr: 1\nlr: 2\n", 'sft.yaml: key "lr" given twice (lines 2 and 3).'),
        ("lr: 1e-4\nlearning_rate: 2e-4\n", "both mean learning_rate, with different values"),
        ("a:\n\tlr: 1\n", "sft.yaml:2:1 tabs are not allowed for indentation in YAML. Use spaces."),
        ("lr: [1\n", "sft.yaml:2:1 is not valid YAML"),
        ("lr: 1\n---\nlr: 2\n", "is not valid YAML"),
        ("lr: *x\n", "sft.yaml:1:5 is not valid YAML: found undefined alias"),
        ("lr: !!python/object:os.system x\n", "sft.yaml:1:5 YAML tags are not allowed, found !python/object:os.system"),
        ("lr: !include x\n", "sft.yaml:1:5 YAML tags are not allowed, found !include"),
        (BOMB, "YAML aliases beyond 100 are not allowed"),
        ("a: &a [*a]\n", "YAML aliases beyond 100 are not allowed"),
        ("", "sft.yaml is empty."),
        ("# nothing\n", "sft.yaml is empty."),
        ("- lr: 1\n", "sft.yaml: expected a mapping of names to values at the top, got a list."),
        ("lr\n", "sft.yaml: expected a mapping of names to values at the top, got a single value."),
        ("a:\n  b:\n    lr: 1\n", "sft.yaml:2:3 a.b is nested twice; one level of nesting is flattened"),
        ("? [a]\n: 1\n", "a name must be a word"),
        (b"\xff\xfe: 1\n", "sft.yaml is not UTF-8 text (byte 0)"),
        ("lr: \x01\n", "sft.yaml is not valid YAML"),
        ("x: " + "[" * 5000, "sft.yaml is nested too deeply"),
    ],
)
def test_refused_files(refusal: Refusal, tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "sft.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    assert message in refusal("sft", *BASE, "--config", "sft.yaml")


def test_missing_files(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "lora.yaml").write_text("lora: true\n")
    assert refusal("sft", "--config", "lroa.yaml") == 'no configuration file lroa.yaml. Did you mean "lora.yaml"?'
    assert "--config . is a folder; give a YAML file." in refusal("sft", "--config", ".")
    assert refusal("sft", "--config") == "--config needs a value."


def test_an_alias_used_a_few_times_is_welcome(settings_of: Run) -> None:
    settings = settings_of("sft", *BASE, "--config", write("lora: true\nrun_name: &n [a]\n".replace("[a]", "a")))
    assert settings.trainer["run_name"] == "a"
    file = write("lora: true\ntarget_modules: &m [q, k]\nmodules_to_save: *m\n")
    assert settings_of("sft", *BASE, "--config", file).model.modules_to_save == ["q", "k"]
