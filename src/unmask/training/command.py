"""The settings of a run as a command line that leads to the same settings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from unmask.data.spec import parse_dataset_args
from unmask.training.arguments import Settings
from unmask.training.defaults import verb_defaults
from unmask.training.fields import trainer_fields

# how one looked at a run is no part of it
_NOT_REPEATED = ("dry_run", "fresh", "allow_change", "resume_from_checkpoint")


def command_of(settings: Settings, verb: str, *, ranks: int = 1) -> str:
    """One line for a shell. Only what differs from the verb's defaults is in it, whatever file it came from.

    Args:
        settings: of the run. verb: `pretrain` or `sft`. ranks: processes that it ran in.
    """
    start = ["unmask"] if ranks == 1 else ["accelerate", "launch", "--num_processes", str(ranks), "-m", "unmask"]
    words = [*start, verb]
    for name, value in _changed(settings, verb):
        words += _flag(name, value)
    return shlex.join(words)


def _changed(settings: Settings, verb: str) -> Iterator[tuple[str, Any]]:
    for part in (settings.model, settings.data, settings.objective, settings.run):
        for entry in fields(part):
            value = getattr(part, entry.name)
            if value != entry.default and entry.name not in _NOT_REPEATED:
                yield entry.name, value
    usual, own = verb_defaults(verb), {entry.name: entry.default for entry in trainer_fields()}
    chosen = {name: own.get(name) for name in usual} | _no_evaluation(settings) | dict(settings.trainer)
    for name, value in chosen.items():
        if name not in _NOT_REPEATED and value is not None and (name not in usual or usual[name] != value):
            yield name, value


def _no_evaluation(settings: Settings) -> dict[str, Any]:
    """On the command line naming rows for evaluation is asking for evaluation; in Python it is not."""
    specs = parse_dataset_args(settings.data.dataset_args) if settings.data.dataset_args else []
    named = settings.data.eval_dataset_args or any(spec.test is not None for spec in specs)
    return {"eval_strategy": "no"} if named else {}


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}", str(value).lower()]
    if isinstance(value, tuple):
        return [f"--{name}={text}" for text in value]
    if isinstance(value, list):
        return [f"--{name}", ",".join(map(str, value))]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
