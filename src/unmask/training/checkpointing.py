"""A run's checkpoints: safetensors and JSON, written beside their place and moved there whole.

    checkpoint-N/     model or adapter in its own layout, tokenizer, optimizer, scheduler, random states, trainer state
    checkpoint-final/ the model alone

The folder appears under its name only when everything in it is written, so an interrupted save is never mistaken for a
checkpoint. Nothing is pickled.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unmask.data.writing import flush_folder
from unmask.errors import ModelError
from unmask.models.tensor_file import write_tensors

STATE = "trainer_state.json"
_OPTIMIZER, _SCHEDULER = "optimizer", "scheduler.json"
_BETWEEN = "::"


def checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    complete = [path for path in found if (path / STATE).is_file()]
    return sorted(complete, key=lambda path: int(path.name.rpartition("-")[2]))


def write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `folder`, then move it to its place; an existing one is replaced."""
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        write(beside)
        flush_folder(beside)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(folder)
    beside.rename(folder)


def rotate(output_dir: Path, keep: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints beyond `keep`, never the best or the newest."""
    if not keep or keep < 1:
        return
    found = checkpoints(output_dir)
    spared = {found[-1]} | ({Path(best)} if best else set()) if found else set()
    surplus = len(found) - keep
    for path in [path for path in found if path not in spared][: max(surplus, 0)]:
        shutil.rmtree(path)


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
    """Write a small state as JSON."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_scheduler(state: Mapping[str, Any], folder: Path) -> None:
    """Write a learning-rate schedule's state; functions in it are rebuilt from the settings, not stored."""
    plain = {name: value for name, value in state.items() if _plain(value)}
    save_json(plain, folder / _SCHEDULER)


def load_scheduler(folder: Path) -> dict[str, Any]:
    """What `save_scheduler` wrote."""
    return json.loads((folder / _SCHEDULER).read_text(encoding="utf-8"))


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_plain(item) and item is not None for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def save_random_states(folder: Path, rank: int) -> None:
    """Write the states of this process's generators (dropout draws from them; noise does not)."""
    version, words, gauss = random.getstate()
    name, key, position, has_gauss, cached = cast(tuple[str, Any, int, int, float], np.random.get_state())
    tensors = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.tensor(key.astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    write_tensors(tensors, folder / f"random-{rank}.safetensors")
    rest = {"python": [version, gauss], "numpy": [name, int(position), int(has_gauss), float(cached)]}
    save_json(rest, folder / f"random-{rank}.json")


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
