"""Every field of the installed `TrainingArguments` has its treatment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from unmask.cli.main import main
from unmask.cli.train import table
from unmask.training.arguments import Settings
from unmask.training.defaults import DEFAULTS, EVALUATION
from unmask.training.fields import HONOURED, NO_EFFECT, REFUSED, TRANSLATED, trackers, trainer_fields

BASE = ("--model_name_or_path", "m", "--dataset_args", "d.jsonl", "--output_dir", "o")


@pytest.fixture(scope="module")
def installed() -> dict[str, dataclasses.Field[object]]:
    from transformers import TrainingArguments

    return {entry.name: entry for entry in dataclasses.fields(TrainingArguments)}


def test_every_installed_field_is_classified_once(installed: dict[str, object]) -> None:
    classes = [HONOURED, TRANSLATED.keys(), NO_EFFECT.keys(), REFUSED.keys()]
    assert set(installed) <= set().union(*classes)
    assert sum(map(len, classes)) == len(set().union(*classes))


def test_the_source_is_read_as_python_reads_it(installed: dict[str, dataclasses.Field[object]]) -> None:
    read = {entry.name: entry for entry in trainer_fields()}
    assert list(read) == list(installed)
    for name, entry in installed.items():
        default = entry.default_factory() if entry.default is dataclasses.MISSING else entry.default  # type: ignore[misc]
        # The optimizer's default depends on the installed torch.
        assert name == "optim" or read[name].default == default, name
        assert read[name].help.split()[:3] == str(entry.metadata["help"]).split()[:3], name


def test_enumerations_list_what_transformers_accepts() -> None:
    from typing import get_args

    from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType
    from transformers.training_args import OptimizerNames

    read = {entry.name: entry.type for entry in trainer_fields()}
    for name, enumeration in {
        "eval_strategy": IntervalStrategy,
        "save_strategy": SaveStrategy,
        "lr_scheduler_type": SchedulerType,
        "optim": OptimizerNames,
        "hub_strategy": HubStrategy,
    }.items():
        assert set(get_args(read[name])) == {member.value for member in enumeration}, name


def test_honoured_settings_arrive_typed(settings_of: Callable[..., Settings], tmp_path: object) -> None:
    from transformers import TrainingArguments

    argv = "--adam_beta2 0.95 --ddp_timeout 60 --fsdp full_shard --torch_compile --eval_steps 5 --optim adamw_torch"
    trainer = settings_of("sft", *BASE, *argv.split(), "--fsdp_config", '{"version": 2}').trainer
    expected = {"adam_beta2": 0.95, "ddp_timeout": 60, "fsdp": "full_shard", "torch_compile": True, "eval_steps": 5}
    assert {name: trainer[name] for name in expected} == expected
    assert trainer["fsdp_config"] == {"version": 2}
    plain = {name: value for name, value in trainer.items() if "fsdp" not in name and name != "torch_compile"}
    made = TrainingArguments(**plain, use_cpu=True)
    assert made.optim == "adamw_torch" and made.eval_steps == 5


OTHER = {bool: "true", int: "3", float: "0.5", str: "x", list: "x", dict: '{"a": 1}'}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_fields_say_why(
    name: str, started: list[object], capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    entry = next(entry for entry in trainer_fields() if entry.name == name)
    value = "false" if entry.default is True else _another(str(entry.type))
    assert main(["sft", *BASE, f"--{name}", value]) == 2
    told = capsys.readouterr().err
    assert f"--{name}" in told and "is not supported" in told
    assert not started


def _another(kind: str) -> str:
    if "Literal" in kind:
        return "end"
    first = next(word for word in ("dict", "bool", "int", "float", "str", "Any") if word in kind)
    return {"dict": '{"a": true}', "bool": "true", "int": "3", "float": "0.5", "str": "x", "Any": "x"}[first]


def test_our_defaults_are_options_and_differ_with_a_reason() -> None:
    theirs = {entry.name: entry.default for entry in trainer_fields()}
    for verb, defaults in DEFAULTS.items():
        for name, default in {**defaults, **EVALUATION}.items():
            assert name in HONOURED and default.why, (verb, name)
        assert table(verb).default_values.items() >= {name: each.value for name, each in defaults.items()}.items()
    assert {name for name, each in DEFAULTS["sft"].items() if each.value == theirs[name]} <= {
        "seed",
        "num_train_epochs",
        "report_to",
    }


def test_trackers_are_those_of_transformers() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(trackers()) == set(INTEGRATION_TO_CALLBACK)
