"""`unmask pretrain` and `unmask sft`: from arguments to the settings of a run.

What a combination of settings means is decided here and in `rules.py`; training itself is `unmask.training.run`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import replace
from typing import Any

from unmask.cli.config import Parsed, parse, say
from unmask.cli.options import Option, OptionTable
from unmask.cli.rules import check
from unmask.cli.yaml_file import Given
from unmask.data.spec import parse_dataset_args
from unmask.errors import ConfigError
from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings
from unmask.training.defaults import EVALUATION, LONGEST_WARMUP, verb_defaults
from unmask.training.fields import HONOURED, NO_EFFECT, REFUSED, TRANSLATED, TrainerField, trainer_fields

DOES = {
    "sft": "Fine-tune a masked diffusion language model on conversations.",
    "pretrain": "Train a masked diffusion language model on plain text: from scratch where the folder of the model "
    "has no weights, or onwards.",
}

_COMMAND = (
    Option("json", bool, False, "Print the result as one JSON object."),
    Option("replay", str | None, None, "Compute again the update at which a run stopped, from the file it left."),
    Option("job_name", str | None, None, argparse.SUPPRESS),
    Option("mode", str | None, None, argparse.SUPPRESS),
    Option("create_example_data", bool, False, argparse.SUPPRESS),
)
_OURS = (ModelArguments, DataArguments, ObjectiveArguments, RunArguments)


def sft(argv: list[str]) -> int:
    """Run `unmask sft`."""
    return _run("sft", argv)


def pretrain(argv: list[str]) -> int:
    """Run `unmask pretrain`."""
    return _run("pretrain", argv)


def table(verb: str) -> OptionTable:
    """All options of a training verb: ours, and transformers' with the refused ones left out of the help."""
    shown = tuple(_option(entry) for entry in trainer_fields() if entry.name in HONOURED)
    hidden = tuple(
        replace(_option(entry), help=argparse.SUPPRESS)
        for entry in trainer_fields()
        if entry.name not in HONOURED and entry.name not in TRANSLATED
    )
    extra = (("The run, as in transformers' TrainingArguments", shown + hidden), ("The command", _COMMAND))
    return OptionTable(verb, DOES[verb], _OURS, extra, tuple(verb_defaults(verb).items()))


def settings_from(parsed: Parsed, verb: str) -> Settings:
    """The settings of a run; nothing is given to `TrainingArguments` that equals its own default by silence.

    Raises:
        ConfigError: settings that are out of range, contradict each other, or are missing.
    """
    trainer = verb_defaults(verb) | {
        name: parsed[name] for name in sorted(parsed.given) if name in HONOURED and parsed[name] is not None
    }
    model, data, objective, run = (parsed.build(cls) for cls in _OURS)
    left_open = tuple(name for name in ("objective", "block_size") if name not in parsed)
    return Settings(model, data, objective, run, trainer, left_open)  # type: ignore[arg-type]


def resolve(parsed: Parsed, verb: str) -> Parsed:
    """Say what the user's settings mean together: job names, evaluation data, warmup, settings without effect."""
    for step in (_mode, _example_data, _job_name, _home, _transformers_fields, _evaluation, _warmup):
        parsed = step(parsed, verb)
    return parsed


def _run(verb: str, argv: list[str]) -> int:
    asked = parse(argv, table(verb))
    if asked is None:
        return 0
    if asked["replay"] is not None:
        return _replay(asked, verb)
    parsed = check(resolve(asked, verb), verb)
    settings = settings_from(parsed, verb)
    say(parsed.notes)

    # read by PyTorch at its first allocation: on Linux, gradients of a large vocabulary come in pages of 2 MiB
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from rich.console import Console

    from unmask.training import run

    first = os.environ.get("RANK", "0") == "0"
    if settings.run.dry_run:
        plan = run.describe(settings, verb=verb)
        told = plan.to_json() if parsed["json"] else str(plan)
    elif parsed["json"]:
        result = run.train(settings, verb=verb, console=Console(stderr=True, quiet=not first))
        stopped = {"stopped": result.stopped} if result.stopped else {}
        told = json.dumps({"folder": str(result.folder), "seconds": result.seconds, **result.metrics, **stopped})
    else:
        result = run.train(settings, verb=verb)
        told = f"saved {result.folder} after {result.seconds:.0f} s"
        if result.stopped:
            told = f"stopped by {result.stopped}: {told}. The same command goes on from there."
    if first:
        print(told, flush=True)
    _leave_group()
    return 0


def _replay(asked: Parsed, verb: str) -> int:
    """Compute an update again and show its rows."""
    others = set(asked.given) - {"replay", "json"}
    if others:
        raise ConfigError(f"replay takes all settings from its file; leave out {', '.join(sorted(others))}.")
    from unmask.training import replay

    left = replay.read(asked["replay"])
    if left.verb != verb:
        raise ConfigError(f"{asked['replay']} was left by a {left.verb} run. Use: unmask {left.verb} --replay ...")
    again = parse(list(left.words), table(verb))
    assert again is not None, "a command that was written has no --help"
    found = replay.replay(settings_from(check(resolve(again, verb), verb), verb), left)
    print(json.dumps(found.to_dict()) if asked["json"] else _replayed(left.update, found))
    return 0


def _replayed(update: int, found: Any) -> str:
    """A line per row of an update, the broken ones marked."""
    lines = [f"row {seen.row:>8,}  seen {seen.epoch} times before  bound {seen.nll:12.4f} nats"
             f"{'' if math.isfinite(seen.nll) else '   <- not a number'}" for seen in found.samples]  # fmt: skip
    broken = sum(not math.isfinite(seen.nll) for seen in found.samples)
    lines.append(f"update {update:,}: {broken} of {len(found.samples)} rows are not numbers")
    if found.weights:
        shown = ", ".join(found.weights[:8]) + (", ..." if len(found.weights) > 8 else "")
        lines.append(f"gradients that are not numbers: {len(found.weights)} ({shown})")
    return "\n".join(lines)


def _leave_group() -> None:
    """Take leave of the other processes: one that just ends may be aborted by its own threads, and count as failed."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _option(entry: TrainerField) -> Option:
    return Option(entry.name, entry.type, entry.default, entry.help)


def _mode(parsed: Parsed, verb: str) -> Parsed:
    """`--mode sft`, which some scripts take instead of a verb."""
    mode = parsed["mode"]
    if mode is None:
        return parsed
    if mode != verb:
        raise ConfigError(f'{parsed.label("mode")} is "{mode}" but the command is {verb}. Use: unmask {mode}')
    return parsed.noted(f"note: mode has no effect (the command says it: unmask {verb})")


def _example_data(parsed: Parsed, verb: str) -> Parsed:
    if not parsed["create_example_data"]:
        return parsed
    if "dataset_args" in parsed:
        raise ConfigError(
            f"{parsed.label('create_example_data')} and {parsed.label('dataset_args')} both name data; give one."
        )
    named = "example:tables" if verb == "sft" else "example:text"
    given = parsed.given["create_example_data"][1]
    return parsed.put("dataset_args", named, given).noted(f"note: create_example_data is read as dataset_args {named}")


def _job_name(parsed: Parsed, verb: str) -> Parsed:
    job = parsed["job_name"]
    if job is None:
        return parsed
    given = parsed.given["job_name"][1]
    folder = f"{(parsed['output_dir'] or '.').rstrip('/')}/{job}"
    if "run_name" not in parsed:
        parsed = parsed.put("run_name", job, given)
    typed = parsed.given["output_dir"][1] if "output_dir" in parsed else given
    return parsed.put("output_dir", folder, typed).noted(f"note: job_name is read as run_name; output_dir is {folder}")


def _home(parsed: Parsed, verb: str) -> Parsed:
    """`~` in a path, which a shell leaves alone behind `=` and which a file never expands."""
    for name in ("model_name_or_path", "output_dir", "adapter", "logging_dir", "resume_from_checkpoint"):
        if parsed[name] and name in parsed:
            parsed = parsed.put(name, os.path.expanduser(parsed[name]), parsed.given[name][1])
    return parsed


def _transformers_fields(parsed: Parsed, verb: str) -> Parsed:
    """Refuse what cannot be kept, note what has no effect; a value equal to transformers' default is always fine."""
    for entry in trainer_fields():
        if entry.name not in parsed or parsed[entry.name] == entry.default or parsed[entry.name] is None:
            continue
        if entry.name == "resume_from_checkpoint" and parsed[entry.name].lower() == "true":
            parsed = parsed.noted("note: resume_from_checkpoint: true has no effect (a run always resumes)")
        elif entry.name in NO_EFFECT and entry.name != "local_rank":
            parsed = parsed.noted(f"note: {entry.name} has no effect ({NO_EFFECT[entry.name]})")
        elif entry.name in REFUSED:
            raise ConfigError(f"{parsed.label(entry.name)} is not supported: {REFUSED[entry.name]}.")
        elif entry.name not in HONOURED and entry.name not in NO_EFFECT:
            raise ConfigError(
                f"{parsed.label(entry.name)} is an option of the installed transformers that unmask does not know yet. "
                "Leave it out."
            )
    return parsed


def _evaluation(parsed: Parsed, verb: str) -> Parsed:
    """Evaluate by default where it is asked for or rows for it are named; less is better in every metric there is."""
    if parsed["metric_for_best_model"] is not None and "greater_is_better" not in parsed:
        parsed = parsed.put("greater_is_better", False, Given("greater_is_better", None))
    specs = parse_dataset_args(parsed["dataset_args"]) if parsed["dataset_args"] else []
    named = parsed["eval_dataset_args"] is not None or any(spec.test is not None for spec in specs)
    if parsed["eval_on_start"] and parsed["eval_strategy"] == "no" and "eval_strategy" in parsed:
        raise ConfigError(f"{parsed.label('eval_on_start')} needs evaluation. Add --eval_strategy steps.")
    if not (named or parsed["eval_on_start"]) or "eval_strategy" in parsed:
        return parsed
    for name, default in EVALUATION.items():
        if name not in parsed:
            parsed = parsed.put(name, default.value, Given(name, default.value))
    return parsed


def _warmup(parsed: Parsed, verb: str) -> Parsed:
    """A tenth of a long pretraining run would be too long a warmup."""
    steps: Any = parsed["max_steps"]
    if verb != "pretrain" or "warmup_steps" in parsed or steps * parsed["warmup_steps"] <= LONGEST_WARMUP.value:
        return parsed
    return parsed.put("warmup_steps", LONGEST_WARMUP.value, Given("warmup_steps", None))
