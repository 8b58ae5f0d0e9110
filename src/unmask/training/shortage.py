"""Memory that did not suffice: what took most of it, and the first change of settings under which it would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import psutil
import torch

from unmask.errors import ResourceError
from unmask.models.facts import Facts
from unmask.models.shortage import shortage_as
from unmask.training.arguments import Settings
from unmask.training.memory import Estimate, readable
from unmask.training.memory_question import estimate_of

# the rest is lost between blocks of memory, or taken by the device's own libraries
_USABLE = 0.92
_LARGEST = 3

Changes = dict[str, Any]


def explained(settings: Settings, verb: str, facts: Facts, device: torch.device) -> AbstractContextManager[None]:
    """A context that turns the library's error about memory into an answer.

    Raises:
        ResourceError: memory did not suffice inside the context.
    """
    return shortage_as(lambda: ResourceError(explanation(settings, verb, facts, size_of(device))))


def explanation(settings: Settings, verb: str, facts: Facts, size: int) -> str:
    """What took the memory of a device of `size` bytes, and what to change."""
    now = estimate_of(settings, verb, facts)
    largest = sorted(now.parts, key=lambda part: -part[1])[:_LARGEST]
    shares = ", ".join(f"{name} {readable(taken)}" for name, taken in largest if taken)
    said = f"the device ran out of memory ({readable(size)}); by estimate the run takes {readable(now.peak)}: {shares}."
    fitting = next((found for found in _tried(settings, verb, facts) if found[1].peak <= _USABLE * size), None)
    if fitting is None:
        return (
            f"{said} No way of computing the same fits into it: train an adapter (--lora true), lower --max_length, or "
            "divide the weights over several devices (FSDP2, ZeRO-3)."
        )
    changes, fits = fitting
    flags = " ".join(f"--{name} {str(value).lower()}" for name, value in changes.items())
    kept = "from as many tokens at a time" if "tokens_per_batch" in changes else "the same"
    return f"{said} With {flags} it would take {readable(fits.peak)} and learn {kept}."


def size_of(device: torch.device) -> int:
    """All memory of a device, bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def _tried(settings: Settings, verb: str, facts: Facts) -> Iterator[tuple[Changes, Estimate]]:
    """Changes that leave what is learned as it is, the least slow ones first, with what they take."""
    for change in _WAYS:
        changes: Changes = change(settings)
        if changes:
            yield changes, estimate_of(_changed(settings, changes), verb, facts)


def _changed(settings: Settings, changes: Changes) -> Settings:
    def of(part: Any) -> Changes:
        return {name: value for name, value in changes.items() if hasattr(part, name)}

    run, data = of(settings.run), of(settings.data)
    others = {name: value for name, value in changes.items() if name not in run and name not in data}
    return replace(
        settings,
        run=replace(settings.run, **run),
        data=replace(settings.data, **data),
        trainer={**settings.trainer, **others},
    )


def _smaller(factor: int) -> Callable[[Settings], Changes]:
    """A forward of fewer rows, and as many more of them."""

    def changes(settings: Settings) -> Changes:
        more = settings.trainer.get("gradient_accumulation_steps", 1) * factor
        budget = settings.data.tokens_per_batch
        if budget is not None:
            fewer = budget // factor
            enough = fewer >= settings.data.max_length
            return {"tokens_per_batch": fewer, "gradient_accumulation_steps": more} if enough else {}
        micro = settings.trainer.get("per_device_train_batch_size", 8)
        if micro % factor:
            return {}
        return {"per_device_train_batch_size": micro // factor, "gradient_accumulation_steps": more}

    return changes


def _recomputed(strategy: str, factor: int = 1) -> Callable[[Settings], Changes]:
    """Activations computed again in the backward pass, of a smaller forward perhaps."""

    def changes(settings: Settings) -> Changes:
        fewer = _smaller(factor)(settings) if factor > 1 else {}
        if (factor > 1 and not fewer) or (factor == 1 and settings.trainer.get("gradient_checkpointing")):
            return {}
        return {**fewer, "gradient_checkpointing": True, "checkpointing_strategy": strategy}

    return changes


_WAYS = (
    _smaller(2),
    _smaller(4),
    _recomputed("selective"),
    _recomputed("whole_layer"),
    *(_recomputed("whole_layer", factor) for factor in (2, 4, 8, 16, 32)),
)
