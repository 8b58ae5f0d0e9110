"""An update that was no number, kept so that it can be computed again: on any machine, row by row.

replay-N/     the weights before update N, the tokenizer, and
replay.json   the command of the run, the update, the number of processes
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from unmask.errors import ConfigError, ResourceError
from unmask.training import safekeeping
from unmask.training.arguments import Settings
from unmask.training.checkpointing import save_json
from unmask.training.command import command_of
from unmask.training.fed import forwards_of
from unmask.training.ingredients import collator_of, gather, load_for_training, objective_of
from unmask.training.loading import NoisedBatch, Noiser

FILE = "replay.json"
_FORMAT = 1


@dataclass(frozen=True)
class Left:
    """What a run left to be computed again.

    Attributes:
        verb: of its command. words: the options of it. update: counted from 1. ranks: processes it had.
        folder: with the weights.
    """

    verb: str
    words: tuple[str, ...]
    update: int
    ranks: int
    folder: Path


@dataclass(frozen=True)
class Seen:
    """One sample of the update.

    Attributes:
        row, epoch: which row of the data, and how often it had been seen before. nll: its bound, nats.
    """

    row: int
    epoch: int
    nll: float


@dataclass(frozen=True)
class Replayed:
    """What came of the update: its samples in order, and the weights whose gradients are no numbers."""

    samples: tuple[Seen, ...]
    weights: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def leave(
    output_dir: Path, settings: Settings, verb: str, update: int, ranks: int, save: Callable[[Path], None]
) -> str:
    """Write what `read` reads; `save` writes model and tokenizer into a folder. A sentence about how that went."""
    folder = output_dir / f"replay-{update}"
    command = command_of(settings, verb)

    def write(target: Path) -> None:
        save(target)
        save_json({"format": _FORMAT, "command": command, "update": update, "ranks": ranks}, target / FILE)

    try:
        safekeeping.write_whole(folder, write)
    except (OSError, SafetensorError, ResourceError) as error:
        return f"What would show its rows could not be written: {error}"
    return f"Its rows, one by one: unmask {verb} --replay {folder / FILE}"


def read(file: str) -> Left:
    """What a run left.

    Raises:
        ConfigError: the file is missing, or is none that a run left.
    """
    path = Path(file) / FILE if Path(file).is_dir() else Path(file)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise KeyError("format")
        _, verb, *words = shlex.split(found["command"])
        return Left(verb, tuple(words), int(found["update"]), int(found["ranks"]), path.parent)
    except FileNotFoundError:
        raise ConfigError(
            f"there is no file {path}. A run that stops for what is no number names the one it leaves."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a file that a stopped run left ({error}). Expected: .../replay-N/{FILE}"
        ) from None


def placed(settings: Settings, left: Left) -> Settings:
    """The run's settings, with the weights as they were before the update."""
    model = settings.model
    if model.lora or model.adapter is not None:
        model = replace(model, adapter=str(left.folder), lora=False)
    else:
        model = replace(model, model_name_or_path=str(left.folder), from_scratch=False)
    return replace(settings, model=model)


def replay(settings: Settings, left: Left) -> Replayed:
    """Compute an update again, without moving any weight.

    Raises:
        UnmaskError: the data or the weights are gone, or have changed.
    """
    settings = placed(settings, left)
    parts = gather(settings, left.verb)
    model = load_for_training(settings, parts)
    objective = objective_of(settings, left.verb, model.mask_token_id, shifted=parts.facts.family.shift)
    noiser = Noiser(collator_of(settings, left.verb, parts.tokenizer), objective)
    mixed = torch.autocast(model.device.type, torch.bfloat16, enabled=bool(settings.trainer.get("bf16")))
    model.train()
    samples: list[Seen] = []
    for item in forwards_of(settings, left.verb, parts, noiser, left.update, left.ranks):
        item = item.to(model.device)
        with mixed:
            samples += _seen(model, objective, item)
            objective(model, item.batch, item.noise).loss.backward()
    return Replayed(tuple(samples), tuple(_broken(model)))


def _seen(model: nn.Module, objective: Any, item: NoisedBatch) -> Iterator[Seen]:
    with torch.no_grad():
        sums = objective(model, item.batch, item.noise)
    keys = item.batch.keys
    nll_S: Tensor = sums.nll_S if sums.nll_S is not None else sums.loss.expand(len(keys.row_S))
    rows = zip(keys.row_S.tolist(), keys.epoch_S.tolist(), nll_S.tolist(), strict=True)
    return (Seen(row, epoch, nll) for row, epoch, nll in rows)


def _broken(model: nn.Module) -> Iterator[str]:
    for name, weight in model.named_parameters():
        if weight.grad is not None and not bool(weight.grad.isfinite().all()):
            yield name
