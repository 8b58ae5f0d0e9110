"""What an opened dataset consists of, before a row of it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from unmask.data.formats.parquet_files import rows_of
from unmask.data.rows import BadRow, Row
from unmask.data.scratch import check_whole
from unmask.data.spec import DatasetSpec
from unmask.errors import DataError, did_you_mean

TEST_SPLITS = ("test", "validation", "valid", "val", "dev", "eval")


@dataclass(frozen=True)
class Part:
    """One split.

    Attributes:
        label: what messages call it. rows: starts the rows anew. identity: a text that changes when they do.
        table: the rows as a table, where they are one already.
        columns: starts the rows anew as columns of a few of them, where they hold tokens in arrays.
    """

    label: str
    rows: Callable[[], Iterator[Row | BadRow]]
    identity: Callable[[], str]
    table: Dataset | None = None
    columns: Callable[[], Iterator[dict[str, Any]]] | None = None


@dataclass(frozen=True)
class Opened:
    """A dataset with its splits found.

    Attributes:
        spec: what was asked for. train, test: its parts; test None: rows of `train` are set aside where `spec` says so.
        made: the rows are generated, as many as `spec` says, so nothing is left to divide.
    """

    spec: DatasetSpec
    train: Part
    test: Part | None
    made: bool = False

    def is_evaluated(self) -> bool:
        """Whether there are rows for evaluation."""
        return self.test is not None or self.spec.test is not None


def chosen(spec: DatasetSpec, parts: dict[str, Part]) -> Opened:
    """The split to train on and the split to test on.

    Raises:
        DataError: there is no such split, or no saying which.
    """
    names = ", ".join(parts)
    if spec.split is not None and spec.split not in parts:
        hint = did_you_mean(spec.split, parts)
        raise DataError(f'dataset "{spec.path}" has splits: {names}; no "{spec.split}".{hint}')
    if spec.split is not None:
        return Opened(spec, parts[spec.split], None)
    if "train" not in parts and len(parts) > 1:
        raise DataError(f'dataset "{spec.path}" has splits: {names}; no "train". Say which: {spec.path}[split:NAME]')
    train = parts.get("train") or next(iter(parts.values()))
    test = next((parts[name] for name in TEST_SPLITS if name in parts and parts[name] is not train), None)
    return Opened(spec, train, test)


def file_identity(files: Iterable[Path]) -> str:
    """Names and contents of files as one digest; size and time of a file may stay while its content changes."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}:{content_digest(file)};".encode())
    return digest.hexdigest()


def content_digest(file: Path) -> str:
    """The sha256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def table_rows(table: Dataset, label: str, index: np.ndarray | None = None) -> Iterator[Row | BadRow]:
    """The rows of a table, numbered from 1 as they stand in it.

    Raises:
        DataError: its file is damaged, which Arrow itself would read past its memory.
    """
    picked = table if index is None else table.select(index)
    done = 0
    for batch in picked.with_format("arrow").iter(batch_size=1000):
        data: Any = batch
        places = range(done, done + len(data)) if index is None else index[done : done + len(data)]
        done += len(data)
        check_whole(data, f"{label} row {places[0] + 1}")
        yield from rows_of(data, [f"{label} row {place + 1}" for place in places])
