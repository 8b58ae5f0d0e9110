"""What decides what a run learns, and how a later start of it differs: nothing, or what must be allowed by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset

from unmask.errors import ConfigError, did_you_mean
from unmask.training.arguments import Settings
from unmask.training.ingredients import Ingredients, shares_of
from unmask.training.plan import row_lengths

Recipe = dict[str, Any]

_LEARNED_BY = (
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "optim",
    "optim_args",
    "max_grad_norm",
    "seed",
)
_ONLY_SPEED = ("attn_implementation", "num_proc", "overwrite_cache", "skip_bad_rows")
_UPDATE = "samples_per_update"
# an update is what counts, however it is shared out; recipes of before had its factors
_FACTORS = ("per_device_train_batch_size", "gradient_accumulation_steps")
# rows whose every token is looked at
_LOOKED_AT = 1000


def recipe_of(settings: Settings, verb: str) -> Recipe:
    """The settings that decide what is learned, as plain data."""
    ours = {**asdict(settings.model), **asdict(settings.data), **asdict(settings.objective), "verb": verb}
    library = {name: settings.trainer[name] for name in _LEARNED_BY if name in settings.trainer}
    plain = {name: value for name, value in {**ours, **library}.items() if name not in _ONLY_SPEED}
    return json.loads(json.dumps({**plain, _UPDATE: shares_of(settings).update}, default=str))


def material_of(parts: Ingredients) -> Recipe:
    """What the settings name but do not say: the rows that came of the data, and the tokenizer."""
    tokenizer = parts.tokenizer
    said = tokenizer.backend_tokenizer.to_str() + str(tokenizer.chat_template) + str(tokenizer.special_tokens_map)
    found = {"tokenizer": hashlib.sha256(said.encode()).hexdigest()[:16]}
    rows = parts.splits.train
    return {**found, "data": _seen(rows)} if isinstance(rows, Dataset) else found


def _seen(rows: Dataset) -> str:
    """How many rows, and a hash of all their lengths and of up to `_LOOKED_AT` of them, evenly spaced."""
    digest = hashlib.sha256(row_lengths(rows).tobytes())
    places = np.unique(np.linspace(0, max(len(rows) - 1, 0), _LOOKED_AT).astype(int)) if len(rows) else []
    for ids in rows.select(places).with_format("numpy")["input_ids"] if len(rows) else ():
        digest.update(np.asarray(ids, np.int64).tobytes())
    return f"{len(rows):,} rows, {digest.hexdigest()[:16]}"


def completed(old: Recipe, verb: str) -> Recipe:
    """A recipe as it would be written today: an option that came later stood at what is now its default."""
    recipe = {**recipe_of(Settings(), verb), **old}
    if _UPDATE not in old:
        micro, accumulation = (int(old.get(name) or usual) for name, usual in zip(_FACTORS, (8, 1), strict=True))
        recipe[_UPDATE] = micro * accumulation * shares_of(Settings()).ranks
    return {name: value for name, value in recipe.items() if name not in _FACTORS}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Each name that differs, with both values."""
    return {
        name: f"{old.get(name)} -> {new.get(name)}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)
    }


def refuse(changed: Mapping[str, str], allowed: str | None, place: str) -> tuple[str, ...]:
    """Lines about changes that are allowed.

    Args:
        changed: from `differences`. allowed: names joined by commas. place: the output folder.

    Raises:
        ConfigError: something else has changed, or a name means nothing.
    """
    names = [name.strip() for name in (allowed or "").split(",") if name.strip()]
    _refuse_unknown(names, changed)
    left = {name: values for name, values in changed.items() if name not in names}
    if left:
        raise ConfigError(
            f"{place} holds a different run ({', '.join(f'{name} {values}' for name, values in left.items())}). Use "
            f"--fresh to move it aside, --allow_change {','.join(left)} to go on with it all the same, or another "
            "output_dir."
        )
    return tuple(f"going on with {name} {values}, as allowed" for name, values in changed.items())


def _refuse_unknown(names: Iterable[str], changed: Mapping[str, str]) -> None:
    known = {*recipe_of(Settings(), "sft"), *_LEARNED_BY, "data", "tokenizer"}
    for name in names:
        if name not in known and name not in changed:
            raise ConfigError(
                f'allow_change "{name}" is nothing that decides what a run learns.{did_you_mean(name, known)} '
                "Example: --allow_change learning_rate,data"
            )
