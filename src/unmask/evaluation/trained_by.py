"""How a model was trained, where its folder says so: the run's own recipe, short and without a place of any machine."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unmask.models.folders import FINISHED, RECIPE
from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments

# all before the name of a file or folder, where a place begins at the root or at a home
_PLACE = re.compile(r"(?<![^+,\s])[/~][^+,\[\]]*/(?=[^/])")


def trained_by(name: str, adapter: str | None = None) -> dict[str, Any] | None:
    """What a run was told that is not told to every run, and what came of its data.

    Args:
        name: of a model: the folder of a run, or a checkpoint in it. adapter: the same of an adapter on top, whose
            recipe it then is.

    Returns:
        `digest`, which is that of equal runs on equal data alone; `recipe`, options that differ from their defaults,
        with places shortened to names; `material`, hashes of tokenizer and rows; of a finished run `finished`, its
        length. None: none is known.
    """
    place = Path(adapter or name).expanduser()
    is_checkpoint = place.name.startswith("checkpoint-")
    told = _read((place.parent if is_checkpoint else place) / RECIPE)
    if told is None:
        return None
    recipe, material = _placeless(told["recipe"]), told.get("material")
    said = json.dumps([recipe, material], sort_keys=True)
    usual = {**asdict(ModelArguments()), **asdict(DataArguments()), **asdict(ObjectiveArguments())}
    changed = {key: value for key, value in recipe.items() if key not in usual or value != usual[key]}
    found = {"digest": hashlib.sha256(said.encode()).hexdigest()[:16], "recipe": changed, "material": material}
    is_final = place.name == FINISHED or not is_checkpoint
    return {**found, "finished": told.get("finished")} if is_final else found


def _read(file: Path) -> dict[str, Any] | None:
    """A damaged file tells nothing, and is no reason to lose an evaluation."""
    try:
        told = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and isinstance(told.get("recipe"), dict) else None


def _placeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _placeless(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_placeless(one) for one in value]
    return _PLACE.sub("", value) if isinstance(value, str) else value
