"""The output folder of a run: what it already holds, whether that is the same run, and making room for a new one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import ConfigError, ModelError, ResourceError
from unmask.models.folders import FINISHED, RECIPE
from unmask.training import checkpointing, lock, safekeeping
from unmask.training.arguments import Settings
from unmask.training.callbacks import METRICS, reports
from unmask.training.ingredients import Ingredients
from unmask.training.recipe import completed, differences, material_of, recipe_of, refuse


@dataclass(frozen=True)
class Standing:
    """What an output folder holds.

    Attributes:
        finished: this very run, to its end. goes_on: this run, not to its end. notes: lines for the user.
    """

    finished: bool = False
    goes_on: bool = False
    notes: tuple[str, ...] = ()


def inspect(output_dir: Path, settings: Settings, verb: str) -> Standing:
    """Look, touch nothing.

    Raises:
        ConfigError: the folder holds another run, or is none.
        ResourceError: the folder cannot be written.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigError(f"output_dir {output_dir} is a file. Choose another output_dir.")
    above = next((parent for parent in output_dir.absolute().parents if parent.exists()), Path("/"))
    if not above.is_dir():
        raise ConfigError(f"output_dir {output_dir} lies below {above}, which is a file. Choose another output_dir.")
    if not os.access(output_dir if output_dir.exists() else above, os.W_OK):
        raise ResourceError(f"cannot write to output_dir {output_dir}. Choose another output_dir.")
    _refuse_a_model(output_dir)
    named = _named_checkpoint(settings)
    found = safekeeping.is_begun(output_dir)
    finished = (output_dir / FINISHED).is_dir()
    said: tuple[str, ...] = ()
    if (found or finished) and not settings.run.fresh:
        said = _refuse_another(output_dir, settings, verb)
    if named is not None:
        return Standing(goes_on=True, notes=said)
    if settings.run.fresh or not (found or finished):
        return Standing()
    if finished and (not found or _read(output_dir).get("finished") == _length(settings)):
        return Standing(finished=True)
    return Standing(goes_on=True, notes=said)


def checkpoint_to_go_on_from(output_dir: Path, settings: Settings) -> tuple[Path, tuple[str, ...]]:
    """The newest one whose every byte is as it was written, or the one that is named; and lines for the user.

    Raises:
        ModelError: it is damaged, or all of them are.
        ResourceError: another run is going on in the folder.
    """
    named = _named_checkpoint(settings)
    if output_dir.is_dir():
        lock.hold(output_dir)
        safekeeping.settle(output_dir)
    if named is not None:
        kept = safekeeping.newest_of([named])
        advice = "Leave resume_from_checkpoint out: a run goes on by itself from the newest checkpoint that is whole."
    else:
        kept = safekeeping.newest(output_dir)
        advice = "Use --fresh to begin anew; what is there is moved aside."
    if kept.newest is None:
        raise ModelError(f"{output_dir} cannot be resumed from: {'; '.join(kept.passed_over)}. {advice}")
    return kept.newest, (*kept.passed_over, f"resuming from {kept.newest}")


def _named_checkpoint(settings: Settings) -> Path | None:
    """The checkpoint that `resume_from_checkpoint` names; None where it names none."""
    named = settings.trainer.get("resume_from_checkpoint")
    if not isinstance(named, str) or named.lower() in ("true", "false"):
        return None
    if not (Path(named) / safekeeping.STATE).is_file():
        raise ConfigError(
            f"resume_from_checkpoint {named} is no checkpoint of a run. Leave it out: a run goes on by itself from the "
            "newest checkpoint in its output_dir."
        )
    if settings.run.fresh:
        raise ConfigError("fresh and resume_from_checkpoint exclude each other. Give one of them.")
    return Path(named)


def _refuse_a_model(output_dir: Path) -> None:
    """A run inside a model's own folder would be hidden by that model, and --fresh would move the model away."""
    if any((output_dir / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ConfigError(f"output_dir {output_dir} is the folder of a model. Choose another output_dir.")


def _length(settings: Settings) -> dict[str, Any]:
    """How long a run was asked to be: more of it is no other recipe."""
    return {name: settings.trainer[name] for name in ("max_steps", "num_train_epochs") if name in settings.trainer}


def _refuse_another(output_dir: Path, settings: Settings, verb: str) -> tuple[str, ...]:
    old = _read(output_dir).get("recipe")
    if old is None:
        raise ConfigError(f"{output_dir} holds a model that is no run of ours. Use another output_dir, or --fresh.")
    changed = differences(completed(old, verb), recipe_of(settings, verb))
    return refuse(changed, settings.run.allow_change, str(output_dir))


def check_material(output_dir: Path, settings: Settings, parts: Ingredients) -> tuple[str, ...]:
    """Compare what the data and the tokenizer came to with what they came to before; lines for the user.

    Raises:
        ConfigError: they have changed, and that is not allowed.
    """
    old, new = _read(output_dir).get("material", {}), material_of(parts)
    if settings.run.fresh or not old:
        return ()
    # a stream has no rows to look at
    both = old.keys() & new.keys()
    changed = differences({name: old[name] for name in both}, {name: new[name] for name in both})
    return refuse(changed, settings.run.allow_change, str(output_dir))


def claim(output_dir: Path, settings: Settings, verb: str, parts: Ingredients) -> None:
    """Make the folder this run's: move an earlier one aside where asked to, write the recipe. First process only.

    Raises:
        ResourceError: the folder cannot be written, or another run is going on in it.
    """
    try:
        if settings.run.fresh and output_dir.is_dir() and any(output_dir.iterdir()):
            lock.hold(output_dir)
            _move_aside(output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        lock.hold(output_dir)
        safekeeping.settle(output_dir)
        told = {"recipe": recipe_of(settings, verb), "material": material_of(parts)}
        _write(output_dir, {**_read(output_dir), **told})
    except OSError as error:
        raise ResourceError(
            f"cannot write to output_dir {output_dir}: {os.strerror(error.errno or 0)}. Choose another output_dir."
        ) from None


def finish(output_dir: Path, settings: Settings) -> None:
    """Note that the run came to the end it was asked for."""
    _write(output_dir, {**_read(output_dir), "finished": _length(settings)})


def _read(output_dir: Path) -> dict[str, Any]:
    path = output_dir / RECIPE
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:  # not JSON, not UTF-8
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged, so this run cannot be gone on with. Use another output_dir, or --fresh.")
    return found


def _write(output_dir: Path, value: dict[str, Any]) -> None:
    checkpointing.save_json(value, output_dir / RECIPE)


def _move_aside(output_dir: Path) -> None:
    """Beside itself, under the next free number. Of a link, what it leads to moves, and the link leads to a new one."""
    place, number = output_dir.resolve(), 1
    while os.path.lexists(aside := place.with_name(f"{place.name}.{number}")):
        number += 1
    place.rename(aside)
    place.mkdir()


def reported(output_dir: Path) -> tuple[dict[str, float], list[dict[str, float]]]:
    """The last value of each metric that a run reported, and all its reports."""
    history = reports(output_dir / METRICS)
    last = {name: value for line in history for name, value in line.items() if name not in ("step", "epoch")}
    return last, history
