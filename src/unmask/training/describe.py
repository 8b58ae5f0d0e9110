"""`--dry_run`: everything about a run that can be known before its first update. Loads no weights, writes nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from datasets import Dataset

from unmask.models.shell import DiffusionModel
from unmask.training.arguments import Settings
from unmask.training.ingredients import (
    Ingredients,
    collator_of,
    decided,
    gather,
    objective_of,
    shares_of,
    start_note,
)
from unmask.training.loading import Noiser, VisitedRows, VisitedStream
from unmask.training.memory import readable
from unmask.training.memory_question import estimate_of
from unmask.training.ordering import filling_of, packing_of, plan_of, refuse_budget_of_stream
from unmask.training.plan import Plan, RandomLength
from unmask.training.trained import make_trained, trained_of
from unmask.types import Batch

# tokens of a row that are worth reading on a screen
_SHOWN = 400
_OPEN, _CLOSE = "⟦", "⟧"


@dataclass(frozen=True)
class DryRun:
    """What a run would do.

    Attributes:
        settings: all of them, resolved. parameters, trainable: weights in all, and trained.
        train_rows, eval_rows: None where there is no such number. notes: lines for the user.
        memory: an estimate, bytes by part, and `peak`.
        first_batch: its rows as text, noisable tokens between ⟦ and ⟧.
    """

    settings: dict[str, Any]
    parameters: int
    trainable: int
    train_rows: int | None
    eval_rows: int | None
    notes: tuple[str, ...]
    memory: dict[str, Any]
    first_batch: tuple[str, ...]

    def to_json(self) -> str:
        """The same as one JSON object."""
        return json.dumps(asdict(self), default=str)

    def __str__(self) -> str:
        lines = [json.dumps(self.settings, indent=2, default=str), *self.notes]
        lines.append(f"parameters: {self.parameters:,}, of which trained: {self.trainable:,}")
        lines.append(f"rows: {_count(self.train_rows)} to train on, {_count(self.eval_rows)} to evaluate on")
        lines.append(_told(self.memory))
        lines.append(f"first batch ({_OPEN}...{_CLOSE} may be noised and is learned):")
        lines += [f"  [{index}] {text}" for index, text in enumerate(self.first_batch)]
        return "\n".join(lines)


def describe(settings: Settings, *, verb: str) -> DryRun:
    """Read settings, configuration, tokenizer and data; raises as `run.train` does."""
    settings, said = decided(settings)
    parts = gather(settings, verb)
    parameters, trainable = _sizes(settings, parts)
    test, plan = parts.splits.test, _plan(settings, verb, parts)
    filling = plan and filling_of(plan)
    filled = [f"{filling}"] if filling else []
    return DryRun(
        settings={name: part for name, part in asdict(settings).items() if name != "left_open"},
        parameters=parameters,
        trainable=trainable,
        train_rows=_rows(parts.splits.train),
        eval_rows=_rows(test) if test is not None else 0,
        notes=(*said, *parts.splits.notes, *filled, start_note(parts)),
        memory=estimate_of(settings, verb, parts.facts).to_dict(),
        first_batch=tuple(_marked(_first_batch(settings, verb, parts, plan), parts.tokenizer)),
    )


def _told(memory: dict[str, Any]) -> str:
    parts = ("weights", "gradients", "optimizer", "buffers", "activations")
    listed = ", ".join(f"{name} {readable(memory[name])}" for name in parts if memory[name])
    return f"memory of one process, about: {readable(memory['peak'])} ({listed}; they do not all peak at once)"


def _sizes(settings: Settings, parts: Ingredients) -> tuple[int, int]:
    with torch.device("meta"):
        model = DiffusionModel(parts.facts)
        parameters = model.num_parameters()
        make_trained(model, trained_of(settings))
    return parameters, model.num_parameters(only_trainable=True)


def _rows(dataset: Any) -> int | None:
    return len(dataset) if isinstance(dataset, Dataset) else None


def _count(rows: int | None) -> str:
    return "a stream" if rows is None else f"{rows:,}"


def _plan(settings: Settings, verb: str, parts: Ingredients) -> Plan | None:
    if isinstance(parts.splits.train, Dataset):
        return plan_of(settings, verb, parts.splits, shares_of(settings).update)
    refuse_budget_of_stream(settings)
    return None


def _first_batch(settings: Settings, verb: str, parts: Ingredients, plan: Plan | None) -> Batch:
    mask_token_id, shifted = parts.tokenizer.mask_token_id, parts.facts.family.shift
    objective = objective_of(settings, verb, mask_token_id, shifted=shifted)
    noiser = Noiser(collator_of(settings, verb, parts.tokenizer), objective)
    rows, shares = parts.splits.train, shares_of(settings)
    if plan is None:
        return noiser(next(iter(VisitedStream(rows, shares, 1, RandomLength(), packing_of(settings, verb))))).batch
    first = [visit for unit in plan.groups(0)[: shares.micro] for visit in unit]
    return noiser(VisitedRows(rows).__getitems__(first)).batch


def _marked(batch: Batch, tokenizer: Any) -> list[str]:
    """Each row as text, its noisable runs between marks, padding left out."""
    rows = []
    for ids, noisable, sample in zip(batch.x0_BL, batch.may_noise_BL, batch.sample_BL, strict=True):
        pieces, start = [], 0
        end = min(int((sample >= 0).sum()), _SHOWN)
        for index in range(1, end + 1):
            if index == end or noisable[index] != noisable[start]:
                text = tokenizer.decode(ids[start:index].tolist())
                pieces.append(f"{_OPEN}{text}{_CLOSE}" if noisable[start] else text)
                start = index
        rows.append("".join(pieces) + (" ..." if int((sample >= 0).sum()) > _SHOWN else ""))
    return rows
