"""`example:text` and `example:tables`: rows of our own generator, made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from unmask import __version__
from unmask.data.examples import EXAMPLE_KINDS, EXAMPLE_NAMES, example_rows
from unmask.data.rows import BadRow, Row
from unmask.data.sources.parts import Opened, Part
from unmask.data.spec import DatasetSpec
from unmask.errors import ConfigError, DataError, did_you_mean

EXAMPLE = "example:"
# rows, where the user says nothing
COUNTS = {"train": 2000, "test": 200}


def made(spec: DatasetSpec) -> Opened:
    """The generated rows that a spec names: `train` of them to learn from, `test` others.

    Raises:
        ConfigError: an unknown kind, level or key. DataError: an unknown split.
    """
    kind = spec.path.removeprefix(EXAMPLE)
    if kind not in EXAMPLE_KINDS:
        known = ", ".join(EXAMPLE + name for name in EXAMPLE_KINDS)
        raise ConfigError(f'dataset "{spec}" is not one of {known}.{did_you_mean(kind, EXAMPLE_KINDS)}')
    name = spec.name or ""
    if name not in ("", *EXAMPLE_NAMES[kind]):
        known = ", ".join(filter(None, EXAMPLE_NAMES[kind])) or "none"
        raise ConfigError(
            f'dataset "{spec}": name must be one of {known}; got "{name}".{did_you_mean(name, EXAMPLE_NAMES[kind])}'
        )
    for key in COUNTS:
        if isinstance(getattr(spec, key), float):
            raise ConfigError(f'dataset "{spec}": rows are made as asked for; give {key} as a number of rows')
    if spec.split not in (None, *COUNTS):
        raise DataError(f'dataset "{spec}" has splits: train, test; no "{spec.split}".')
    counts = {key: COUNTS[key] if getattr(spec, key) is None else getattr(spec, key) for key in COUNTS}
    if spec.split is not None:
        # One split alone is divided like any other rows.
        return Opened(replace(spec, train=None, test=None), _part(spec, kind, counts[spec.split], spec.split), None)
    return Opened(spec, _part(spec, kind, counts["train"], "train"), _part(spec, kind, counts["test"], "test"), True)


def _part(spec: DatasetSpec, kind: str, count: int, split: str) -> Part:
    label = f"{spec.path}[{split}]"

    def rows() -> Iterator[Row | BadRow]:
        which: Literal["train", "test"] = "test" if split == "test" else "train"
        found = example_rows(kind, name=spec.name or "", count=count, seed=spec.seed or 0, split=which)
        return (Row(f"{label} row {number}", fields) for number, fields in enumerate(found, 1))

    return Part(label, rows, lambda: f"{__version__} {spec} {split} {count}")
