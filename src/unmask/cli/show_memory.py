"""`unmask show memory`: what a training run would take on each device, before it starts. Parsing and printing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from unmask.cli.config import Parsed
from unmask.errors import ConfigError
from unmask.training.arguments import CheckpointingStrategy

# of graphics cards, GiB; a twentieth and one GiB are left to the driver and to what lies between blocks
CARDS = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192)


@dataclass(frozen=True)
class MemoryArguments:
    """show memory: the run, in the words of `sft` and `pretrain`"""

    model_name_or_path: str | None = None
    """Folder or Hub id; only its configuration is read."""
    num_processes: int = 1
    """Devices, one process each; with several, every way of dividing the run is listed."""
    per_device_train_batch_size: int = 8
    """Rows of one forward."""
    gradient_accumulation_steps: int = 1
    """Forwards of an update."""
    max_length: int = 1024
    """Tokens of a row."""
    bf16: bool = True
    """Mixed precision."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type the weights are held in; auto: float32, and bfloat16 under an adapter with bf16."""
    optim: str = "adamw_torch_fused"
    """Optimizer, by transformers' name."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass."""
    checkpointing_strategy: CheckpointingStrategy = "whole_layer"
    """Which of them, as in `sft`."""
    lora: bool = False
    """Train an adapter instead of all weights."""
    r: int = 32
    """Rank of the adapter."""
    target_modules: str | list[str] = "all-linear"
    """Layers that get an adapter."""
    load_in_4bit: bool = False
    """Hold the frozen base in 4 bits."""
    load_in_8bit: bool = False
    """Hold the frozen base in 8 bits."""


def memory(parsed: Parsed) -> list[dict[str, Any]]:
    """One record per way of dividing the run: bytes of each part, the peak, and a card that holds it.

    Raises:
        ConfigError: no model is named, or a number is out of range.
        ModelError: there is no such model.
    """
    _check(parsed)
    from unmask.models.facts import read_facts
    from unmask.models.folders import resolve_folder
    from unmask.training.memory import estimates

    facts = read_facts(resolve_folder(os.path.expanduser(parsed["model_name_or_path"]), weights=False))
    length, most = parsed["max_length"], facts.shape.max_length
    if length > most:
        raise ConfigError(f"max_length is {length}, the model was made for {most} positions at most. Lower max_length.")
    found = estimates(_question(parsed, facts), parsed["num_processes"])
    return [{**one.to_dict(), "fits": card_for(one.peak)} for one in found]


def card_for(peak: int) -> int | None:
    """The smallest usual card that holds `peak` bytes, in GiB; None where there is none."""
    return next((size for size in CARDS if peak * 1.05 + 2**30 <= size * 2**30), None)


def _question(parsed: Parsed, facts: Any) -> Any:
    from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings
    from unmask.training.memory_question import question_of

    chosen = ("model_name_or_path", "dtype", "lora", "r", "target_modules", "load_in_4bit", "load_in_8bit")
    trainer = ("per_device_train_batch_size", "gradient_accumulation_steps", "optim", "gradient_checkpointing", "bf16")
    settings = Settings(
        ModelArguments(**{name: parsed[name] for name in chosen}),
        DataArguments(max_length=parsed["max_length"]),
        ObjectiveArguments(),
        RunArguments(checkpointing_strategy=parsed["checkpointing_strategy"]),
        {name: parsed[name] for name in trainer},
    )
    return question_of(settings, "sft", facts, bf16=parsed["bf16"], on_gpu=True)


def _check(parsed: Parsed) -> None:
    if not parsed["model_name_or_path"]:
        raise ConfigError("show memory needs a model. Give --model_name_or_path FOLDER_OR_HUB_ID.")
    for name in ("num_processes", "per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "r"):
        if parsed[name] < 1:
            raise ConfigError(f"{parsed.label(name)} must be >= 1; got {parsed[name]}.")
    if (parsed["load_in_4bit"] or parsed["load_in_8bit"]) and not parsed["lora"]:
        raise ConfigError("quantised weights cannot be trained. Add --lora.")


def print_memory(parsed: Parsed, records: list[dict[str, Any]]) -> None:
    """A table, and a sentence on what is not in it."""
    from rich.console import Console
    from rich.table import Table

    rows, length = parsed["per_device_train_batch_size"], parsed["max_length"]
    unit, size = ("GiB", 2**30) if max(record["peak"] for record in records) >= 2**30 else ("MiB", 2**20)
    told = f"{parsed['model_name_or_path']}: {rows} x {length:,} tokens per forward, {unit} on each device"
    table = Table(title=told, title_justify="left", box=None, pad_edge=False)
    parts = ("weights", "gradients", "optimizer", "buffers", "activations", "peak")
    for name in ("", *parts, "card"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for record in records:
        card = f"{record['fits']} GiB" if record["fits"] else "none"
        sizes = [f"{record[part] / size:,.1f}" if record[part] else "-" for part in parts]
        how = "one device" if record["ranks"] == 1 else f"{record['sharing']} / {record['ranks']}"
        table.add_row(how, *sizes, card)
    console = Console()
    console.print(table)
    console.print(
        "The peak is below the sum: gradients grow while activations are freed. Card: the smallest usual one, with "
        "1 GiB and a twentieth left for the driver and the allocator.",
        style="dim",
        soft_wrap=True,
    )
