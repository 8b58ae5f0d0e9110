"""What a checkpoint holds beside the model: optimizer, schedule, random states; safetensors and JSON, nothing pickled.

    checkpoint-N/     model or adapter in its own layout, tokenizer, optimizer, scheduler, random states, trainer state
    checkpoint-final/ the model alone

How it gets to its place is for `safekeeping`.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unmask.errors import ModelError
from unmask.models.tensor_file import write_tensors

_OPTIMIZER, _SCHEDULER, _REPORTS = "optimizer", "scheduler.json", "reports.json"
_BETWEEN = "::"

# tensors by name, and what is no tensor
RandomStates = tuple[dict[str, Tensor], dict[str, Any]]


def save_optimizer(state: Mapping[str, Any], folder: Path) -> None:
    """Write an optimizer's state (`get_optimizer_state_dict`): its tensors as safetensors, everything else as JSON."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for weight, values in state["state"].items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else plain)[f"{weight}{_BETWEEN}{name}"] = value
    write_tensors({name: value.contiguous() for name, value in tensors.items()}, folder / f"{_OPTIMIZER}.safetensors")
    rest = {"state": plain, "param_groups": state["param_groups"]}
    (folder / f"{_OPTIMIZER}.json").write_text(json.dumps(rest, default=float), encoding="utf-8")


def load_optimizer(folder: Path) -> dict[str, Any]:
    """What `save_optimizer` wrote."""
    try:
        rest = json.loads((folder / f"{_OPTIMIZER}.json").read_text(encoding="utf-8"))
        flat = {**load_file(folder / f"{_OPTIMIZER}.safetensors"), **rest["state"]}
        state: dict[str, dict[str, Any]] = {}
        for name, value in flat.items():
            weight, _, leaf = name.rpartition(_BETWEEN)
            state.setdefault(weight, {})[leaf] = value
        return {"state": state, "param_groups": rest["param_groups"]}
    except (OSError, SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise ModelError(
            f"{folder} cannot be resumed from: its optimizer state is missing or damaged ({error}). "
            "Start from an earlier checkpoint, or anew with --fresh."
        ) from None


def save_json(value: Any, path: Path) -> None:
    """Write a small state as JSON; a file that is there is replaced by a whole one."""
    draft = path.with_name(f"{path.name}.part")
    with draft.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def save_scheduler(state: Mapping[str, Any], folder: Path) -> None:
    """Write a learning-rate schedule's state; functions in it are rebuilt from the settings, not stored."""
    plain = {name: value for name, value in state.items() if _plain(value)}
    save_json(plain, folder / _SCHEDULER)


def load_scheduler(folder: Path) -> dict[str, Any]:
    """What `save_scheduler` wrote."""
    return json.loads((folder / _SCHEDULER).read_text(encoding="utf-8"))


def resume_schedule(
    scheduler: Any, optimizer: torch.optim.Optimizer, asked: Sequence[Mapping[str, Any]], state: Mapping[str, Any]
) -> None:
    """Go on with a schedule where it was, under the rates and decays that are asked for now.

    Args:
        scheduler, optimizer: of this run, the optimizer's state already loaded.
        asked: the options of its groups before that. state: from `load_scheduler`.
    """
    scheduler = getattr(scheduler, "scheduler", scheduler)  # accelerate wraps it
    rates = list(getattr(scheduler, "base_lrs", []))
    for group, options in zip(optimizer.param_groups, asked, strict=True):
        group.update({name: value for name, value in options.items() if name != "lr"})
    scheduler.load_state_dict({**scheduler.state_dict(), **state, **({"base_lrs": rates} if rates else {})})
    if rates == state.get("base_lrs", rates):
        return
    # a rate that was changed counts from the next update on
    for group, rate, factor in zip(optimizer.param_groups, rates, scheduler.lr_lambdas, strict=True):
        group["lr"] = rate * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_plain(item) and item is not None for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def random_states() -> RandomStates:
    """The states of this process's generators (dropout draws from them; noise does not)."""
    version, words, gauss = random.getstate()
    name, key, position, has_gauss, cached = cast(tuple[str, Any, int, int, float], np.random.get_state())
    tensors = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.tensor(key.astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors, {"python": [version, gauss], "numpy": [name, int(position), int(has_gauss), float(cached)]}


def save_random_states(every: Sequence[RandomStates], folder: Path) -> None:
    """Write the states of all processes, by rank."""
    for rank, (tensors, rest) in enumerate(every):
        write_tensors(tensors, folder / f"random-{rank}.safetensors")
        save_json(rest, folder / f"random-{rank}.json")


def save_reports(every: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write what each process has counted since the last report, by rank."""
    save_json(list(every), folder / _REPORTS)


def load_reports(folder: Path, rank: int, ranks: int) -> list[dict[str, Any]]:
    """What this process goes on counting from; the first one takes over from processes that are gone."""
    path = folder / _REPORTS
    every = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return every[rank : rank + 1] + (every[ranks:] if rank == 0 else [])


def load_random_states(folder: Path, rank: int) -> bool:
    """Restore what `save_random_states` wrote; False where this rank left nothing."""
    path = folder / f"random-{rank}.safetensors"
    if not path.is_file():
        return False
    tensors = load_file(path)
    rest = json.loads((folder / f"random-{rank}.json").read_text(encoding="utf-8"))
    version, gauss = rest["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    name, position, has_gauss, cached = rest["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    return True
