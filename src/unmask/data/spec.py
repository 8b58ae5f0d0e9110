"""The dataset grammar: `NAME_OR_PATH[key:value,...]`, pieces joined by `+` or `|`.

Turns text into `DatasetSpec` records; whether the name is a file or a Hub id, and what is in it, is for `sources`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass

from unmask.errors import ConfigError, did_you_mean

EXAMPLE = "data/train.jsonl[train:10_000,test:5%]+user/dataset[name:default,split:train]"
KEYS = ("train", "test", "name", "split", "seed", "weight")
_LARGEST_SEED = 2**32 - 1  # of the generator that divides rows


@dataclass(frozen=True)
class DatasetSpec:
    """One piece of the dataset text; written out again by `str`.

    Attributes:
        path: file, folder, glob, Hub id, `modelscope:OWNER/NAME`, `example:text` or `example:tables`.
        train: rows to learn from: an int counts rows, a float in (0, 1] is a share of all rows; None: all the rest.
        test: rows to evaluate on, likewise; None: the dataset's own test split, where it has one.
        name: configuration of a Hub dataset, file in a ModelScope one, level of an example.
        split: take this split of the dataset as if it were all of it.
        seed: of the division into train and test, or of an example; None: the same in every run.
        weight: share of the rows drawn where datasets are mixed; None: 1 if another one has a weight.
    """

    path: str
    train: int | float | None = None
    test: int | float | None = None
    name: str | None = None
    split: str | None = None
    seed: int | None = None
    weight: float | None = None

    def __str__(self) -> str:
        given = {key: getattr(self, key) for key in KEYS if getattr(self, key) != getattr(DatasetSpec, key)}
        options = ",".join(f"{key}:{_written(key, value)}" for key, value in given.items())
        return f"{self.path}[{options}]" if options else self.path


def parse_dataset_args(text: str, *, exists: Callable[[str], bool] | None = None) -> list[DatasetSpec]:
    """The datasets that `text` names, in order.

    A path that exists wins over every other reading of the same characters, so that brackets, `+`, `|` and `=` may be
    part of a folder's name; otherwise a trailing `[...]` holds options.

    Args:
        text: for example `data/train.jsonl[train:10_000,test:5%]+user/dataset`.
        exists: whether a path, or a glob, names something; default: looks at the disk.

    Raises:
        ConfigError: empty text or piece, unknown or repeated key, value of the wrong type; names the piece.
    """
    exists = exists or _on_disk
    pieces = _pieces(text, exists)
    if not any(pieces):
        raise ConfigError(f"dataset_args is empty. Example: {EXAMPLE}")
    if not all(pieces):
        raise ConfigError(f'dataset_args "{text}" has nothing beside a "+". Example: {EXAMPLE}')
    return [_parse_piece(piece, exists) for piece in pieces]


def _on_disk(path: str) -> bool:
    return os.path.exists(path) or (glob.has_magic(path) and bool(glob.glob(path)))


def _pieces(text: str, exists: Callable[[str], bool]) -> list[str]:
    """Split at `+` and `|` outside brackets; of several readings the longest that exists on disk wins."""
    cuts = [-1, *_separators(text), len(text)]
    pieces, start = [], 0
    while start < len(cuts) - 1:
        spans = [
            (end, os.path.expanduser(text[cuts[start] + 1 : cuts[end]].strip()))
            for end in range(len(cuts) - 1, start, -1)
        ]
        named = (span for span in spans if _names_something(span[1], exists))
        end, piece = next(named, spans[-1])
        pieces.append(piece)
        start = end
    return pieces


def _separators(text: str) -> list[int]:
    depth, inside, every = 0, [], []
    for index, letter in enumerate(text):
        depth = max(depth + (letter == "[") - (letter == "]"), 0)
        if letter in "+|":
            every.append(index)
            if depth == 0:
                inside.append(index)
    return inside if depth == 0 else every


def _names_something(piece: str, exists: Callable[[str], bool]) -> bool:
    path, options = _bracket(piece)
    return bool(piece) and (exists(piece) or (options is not None and exists(path)))


def _bracket(piece: str) -> tuple[str, str | None]:
    """The path and the text between trailing brackets (None where there are none)."""
    opening = piece.rfind("[")
    if not piece.endswith("]") or opening < 0:
        return piece, None
    return piece[:opening].strip(), piece[opening + 1 : -1]


def _parse_piece(piece: str, exists: Callable[[str], bool]) -> DatasetSpec:
    if exists(piece):
        return DatasetSpec(piece)
    if piece.count("[") != piece.count("]"):
        raise ConfigError(f'dataset "{piece}": its brackets do not match. Example: {EXAMPLE}')
    path, options = _bracket(piece)
    if options is None:
        return DatasetSpec(path)
    if not path:
        raise ConfigError(f'dataset "{piece}" has options but no name before them. Example: {EXAMPLE}')
    values: dict[str, int | float | str] = {}
    for entry in options.split(",") if options.strip() else []:
        key, value = _parse_entry(entry, piece)
        if key in values:
            raise ConfigError(f'dataset "{piece}": key "{key}" is given twice. Example: {EXAMPLE}')
        values[key] = value
    return DatasetSpec(path, **values)  # type: ignore[arg-type]


def _parse_entry(entry: str, piece: str) -> tuple[str, int | float | str]:
    key, colon, value = (part.strip() for part in entry.partition(":"))
    if not colon or not value:
        raise ConfigError(f'dataset "{piece}": expected key:value, got "{entry.strip()}". Example: {EXAMPLE}')
    if key not in KEYS:
        raise ConfigError(
            f'dataset "{piece}": unknown key "{key}"; allowed: {", ".join(KEYS)}.{did_you_mean(key, KEYS)} '
            f"Example: {EXAMPLE}"
        )
    try:
        return key, _READ[key](value)
    except ValueError as problem:
        raise ConfigError(
            f'dataset "{piece}": {key} must be {_WANTED[key]}, got "{value}". Example: {EXAMPLE}'
        ) from problem


def _rows(value: str) -> int | float:
    """A count above 0 with optional underscores, or a percentage."""
    if value.endswith("%"):
        share = float(value[:-1]) / 100
        if not 0 < share <= 1:
            raise ValueError(value)
        return share
    count = int(value)
    if count < 1:
        raise ValueError(value)
    return count


def _seed(value: str) -> int:
    seed = int(value)
    if not 0 <= seed <= _LARGEST_SEED:
        raise ValueError(value)
    return seed


def _weight(value: str) -> float:
    weight = float(value)
    if not 0 < weight < float("inf"):
        raise ValueError(value)
    return weight


_READ: dict[str, Callable[[str], int | float | str]] = {
    "train": _rows,
    "test": _rows,
    "name": str,
    "split": str,
    "seed": _seed,
    "weight": _weight,
}
_WANTED = {
    "train": "a number of rows above 0 (10_000) or a percentage (5%)",
    "test": "a number of rows above 0 (1_000) or a percentage (5%)",
    "seed": f"a whole number from 0 to {_LARGEST_SEED:,}",
    "weight": "a number above 0",
}


def _written(key: str, value: int | float | str) -> str:
    if key in ("train", "test") and isinstance(value, float):
        return f"{value * 100:.12g}%"
    return f"{value:g}" if isinstance(value, float) else str(value)
