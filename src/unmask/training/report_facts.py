"""What stands still in a run's report: its settings, data, model, machine and versions. Reads, never writes."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets import Dataset
from transformers import TrainingArguments

from unmask import __version__
from unmask.training.arguments import Settings
from unmask.training.command import command_of
from unmask.training.defaults import verb_defaults
from unmask.training.grouped import Filling
from unmask.training.ingredients import Ingredients, start_note
from unmask.training.memory import Estimate
from unmask.training.plan import Shares, row_lengths

Panel = tuple[str, list[tuple[str, str]]]
_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft")
_LOSS_UNITS = {
    "token": "per token that may be noised",
    "sequence": "mean over answers, each by its length",
    "batch": "per row",
}


@dataclass(frozen=True)
class Facts:
    """See the module; the page shows them in this order.

    Attributes:
        title, subtitle: of the page. command: the same run again. panels: title -> names and values.
        settings: name, value, whether it is not the default. memory: an estimate, in bytes.
        yardstick: nats per token of counting tokens alone. parameters, trainable: weights.
        loss_unit: what the loss is a mean of. samples_note: about the samples, or why there are none.
    """

    title: str
    subtitle: str
    command: str
    panels: list[Panel]
    settings: list[tuple[str, str, bool]]
    parameters: int
    trainable: int
    loss_unit: str = ""
    yardstick: float | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    samples_note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "version": __version__}


@dataclass(frozen=True)
class Material:
    """What a run is made of, as far as its report tells of it.

    Attributes:
        settings, verb, shares, parts: of the run. model: the network, built. updates: of the run.
        normalization: of the loss. peak: what utilisation is a share of, in words.
        filling: of packed rows, or of forwards by tokens.
    """

    settings: Settings
    verb: str
    shares: Shares
    parts: Ingredients
    model: Any
    updates: int
    normalization: str
    peak: str
    filling: Filling | None = None


def facts_of(material: Material) -> Facts:
    """Everything about a run that its report says once."""
    settings, model = material.settings, material.model
    parameters, trainable = model.num_parameters(), model.num_parameters(only_trainable=True)
    name = settings.trainer.get("run_name") or Path(settings.trainer["output_dir"]).resolve().name
    adapted = " through an adapter" if settings.model.lora or settings.model.adapter else ""
    said = {"sft": "fine-tuned", "pretrain": "pretrained"}.get(material.verb, material.verb)
    return Facts(
        title=name,
        subtitle=f"{settings.model.model_name_or_path}, {said}{adapted} on {settings.data.dataset_args}",
        command=command_of(settings, material.verb, ranks=material.shares.ranks),
        panels=[
            ("Model", _model(material, parameters, trainable)),
            ("Data", _data(material)),
            ("Training", _training(material)),
            ("Machine and versions", [*_machine(material.shares), ("peak", material.peak), *_versions()]),
        ],
        settings=setting_rows(settings, material.verb),
        parameters=parameters,
        trainable=trainable,
        loss_unit=_LOSS_UNITS.get(material.normalization, ""),
        yardstick=material.parts.yardstick,
    )


def _model(material: Material, parameters: int, trainable: int) -> list[tuple[str, str]]:
    model, chosen = material.model, material.settings.model
    shape = model.facts.shape
    rows = [
        ("from", start_note(material.parts)),
        ("family", model.family.name),
        ("shape", f"{shape.layers} layers of width {shape.width}, {shape.heads} heads, {shape.vocab_size:,} tokens"),
        ("weights", f"{parameters:,}, of which trained {trainable:,}"),
        ("held in", str(next(model.parameters()).dtype).removeprefix("torch.")),
    ]
    if chosen.lora:
        kind = f"{'rs' if chosen.use_rslora else ''}{'DoRA' if chosen.use_dora else 'LoRA'}"
        rows.append(("adapter", f"{kind}, r {chosen.r}, alpha {chosen.lora_alpha}, on {_text(chosen.target_modules)}"))
    return rows


def _data(material: Material) -> list[tuple[str, str]]:
    data, splits = material.settings.data, material.parts.splits
    rows = [("dataset", str(data.dataset_args)), ("training", _rows(splits.train))]
    if data.eval_dataset_args:
        rows.append(("evaluation set", data.eval_dataset_args))
    rows.append(("evaluation", _rows(splits.test) if splits.test is not None else "none"))
    rows.append(("longest row allowed", f"{data.max_length:,} tokens"))
    if material.verb == "sft":
        rows.append(("padding", data.padding))
    if material.filling is not None:
        rows.append(("rows", str(material.filling)))
    return rows + [("note", note) for note in splits.notes]


def _rows(rows: Any) -> str:
    if not isinstance(rows, Dataset):
        return "a stream"
    lengths = row_lengths(rows)
    if not len(lengths):
        return "no rows"
    return (
        f"{len(lengths):,} rows, {int(lengths.sum()):,} tokens (mean {lengths.mean():.0f}, longest {lengths.max():,})"
    )


def _training(material: Material) -> list[tuple[str, str]]:
    get, shares, objective = material.settings.trainer.get, material.shares, material.settings.objective
    batch = f"{shares.micro} × {shares.accumulation} forwards × {shares.ranks} processes"
    return [
        ("updates", f"{material.updates:,}"),
        (f"{_unit(material.settings)} of an update", f"{shares.update:,} ({batch})"),
        ("learning rate", f"{get('learning_rate', 5e-5):g}, {_text(get('lr_scheduler_type', 'linear'))}"),
        ("warmup", _warmup(get("warmup_steps", 0))),
        ("optimizer", _text(get("optim") or TrainingArguments.default_optim)),
        ("noise", f"{objective.noise_schedule}, times {objective.time_sampling.replace('_', ' ')}"),
        ("loss", f"{objective.objective}, weight {objective.loss_weight}, per {material.normalization}"),
        ("seed", str(get("seed", 42))),
    ]


def _unit(settings: Settings) -> str:
    """What an update is counted in."""
    return "forwards" if settings.data.tokens_per_batch else "packed rows" if settings.data.packing else "rows"


def _warmup(steps: float) -> str:
    return f"{100 * steps:g} % of the run" if 0 < steps < 1 else f"{steps:g} updates"


def _machine(shares: Shares) -> list[tuple[str, str]]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    rows = [("processor", f"{_processor()}, {cores} {'core' if cores == 1 else 'cores'}, {memory:.0f} GiB")]
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(torch.cuda.current_device())
        rows.append(("GPU", f"{card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"))
    return [*rows, ("processes", str(shares.ranks)), ("system", f"{platform.system()} {platform.release()}")]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> list[tuple[str, str]]:
    found = {"unmask": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return [("versions", ", ".join(f"{name} {number}" for name, number in found.items()))]


def setting_rows(settings: Settings, verb: str) -> list[tuple[str, str, bool]]:
    """Each setting with its value, and whether it is another than the verb's default."""
    rows = []
    for part in (settings.model, settings.data, settings.objective, settings.run):
        rows += [
            (entry.name, _text(getattr(part, entry.name)), getattr(part, entry.name) != entry.default)
            for entry in fields(part)
        ]
    usual = verb_defaults(verb)
    shown = {name: value for name, value in settings.trainer.items() if "token" not in name}
    return rows + [(name, _text(value), name not in usual or usual[name] != value) for name, value in shown.items()]


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown_memory(estimate: Estimate) -> dict[str, Any]:
    """An estimate as the page draws it."""
    per = f"on each of {estimate.ranks} processes ({estimate.sharing})" if estimate.ranks > 1 else ""
    return {"estimate": estimate.peak, "parts": estimate.parts, "per": per}


def peak_memory(before: int = 0) -> tuple[int, str]:
    """The most memory held so far, in bytes, and where: on the GPU where there is one, else by the process."""
    if torch.cuda.is_available():
        return max(before, torch.cuda.max_memory_allocated()), "on the first GPU"
    return max(before, psutil.Process().memory_info().rss), "of the whole process"
