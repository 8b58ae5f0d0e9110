"""A `DatasetSpec` -> records for training and records for testing, as Arrow tables or as a stream.

Opens files, globs, folders of files, `save_to_disk` folders, rows of tokens, Hub and ModelScope ids and our own
examples, and divides them into train and test, which never overlap. A dataset that has a split of its own for testing
keeps it. From one with a single split, both parts are taken out of one seeded shuffle (test first, then train; rows
stay in the order of the file; the same division in every run unless the spec names a `seed`). A stream cannot be
shuffled: its first rows are the test part, the next ones the training part. Knows nothing of tokenizers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from unmask.data.rows import BadRow, Row
from unmask.data.sources import local
from unmask.data.sources.division import divide, limit
from unmask.data.sources.hub import MODELSCOPE, hub_parts, is_hub_id, modelscope_parts
from unmask.data.sources.local import local_parts
from unmask.data.sources.made import EXAMPLE, made
from unmask.data.sources.parts import Opened as Opened
from unmask.data.sources.parts import Part, chosen, table_rows
from unmask.data.sources.reading import (
    Reading,
    arrays_table,
    first_records,
    holds_tokens,
    records_stream,
    records_table,
    tokens_table,
)
from unmask.data.spec import DatasetSpec
from unmask.errors import ConfigError, DataError

Start = Callable[[], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Records:
    """What a spec holds.

    Tables have the columns `text` or `messages`, and `where`; rows that come tokenised have `input_ids` and what
    stands beside them. A stream of training records is a function that starts it anew.
    """

    train: Dataset | Start
    test: Dataset | None = None
    notes: list[str] = field(default_factory=list)


def load_records(spec: DatasetSpec, reading: Reading, *, streaming: bool = False) -> Records:
    """The training and testing records of one piece of the dataset text.

    Raises:
        DataError: nothing there, no such split, a bad row (unless they are skipped), no rows.
        ConfigError: an option that this kind of dataset does not have.
    """
    return read(open_dataset(spec, streaming=streaming), reading, streaming=streaming)


def open_dataset(spec: DatasetSpec, *, streaming: bool = False) -> Opened:
    """Find a dataset and its splits; of a local one nothing is read yet.

    Raises:
        DataError: nothing there, no such split. ConfigError: an option that this kind of dataset does not have.
    """
    if spec.path.startswith(EXAMPLE):
        return made(spec)
    if spec.path.startswith(MODELSCOPE):
        return chosen(spec, modelscope_parts(spec))
    if not is_local(spec):
        return chosen(spec, hub_parts(spec, streaming))
    if spec.name:
        raise ConfigError(f'dataset "{spec}": name is for Hub datasets; {spec.path} is on this machine')
    return chosen(spec, local_parts(spec.path))


def is_local(spec: DatasetSpec) -> bool:
    """Whether the spec names something on this machine rather than on a hub."""
    if spec.path.startswith((EXAMPLE, MODELSCOPE)):
        return spec.path.startswith(EXAMPLE)
    return local.exists(spec.path) or not is_hub_id(spec.path)


def local_files(spec: DatasetSpec) -> list[Path]:
    """The files that a local spec reads; empty for a hub."""
    return local.files_of(spec.path)


def read(opened: Opened, reading: Reading, *, streaming: bool = False) -> Records:
    """The records of an opened dataset.

    Raises:
        DataError: a bad row (unless they are skipped), no rows.
        ConfigError: an option that a stream does not have.
    """
    if streaming:
        return _streamed(opened, reading)
    if opened.made:
        return _whole(opened, reading)
    return _divided(opened, reading) if opened.test is None else _separate(opened, reading, opened.test)


def comes_tokenised(opened: Opened, reading: Reading) -> bool:
    """Whether the training rows hold tokens already; reads the first of them."""
    part = opened.train
    if part.table is not None:
        return holds_tokens(part.table.column_names, reading)
    return _looked_at(part, reading)[1]


# Tables


def _whole(opened: Opened, reading: Reading) -> Records:
    train, notes = _table(opened.train, reading)
    if opened.test is None:
        return Records(train, None, notes)
    test, more = _table(opened.test, reading)
    return Records(train, test, notes + more)


def _divided(opened: Opened, reading: Reading) -> Records:
    """Train and test out of a single split."""
    part, spec = opened.train, opened.spec
    if part.table is None:
        table, notes = _table(part, reading)
        train, test, more = divide(spec, len(table))
        return Records(_selected(table, train), None if test is None else table.select(test), notes + more)
    train, test, more = divide(spec, len(part.table))
    table, notes = _table(part, reading, train)
    held_out, other_notes = _table(part, reading, test) if test is not None else (None, [])
    return Records(table, held_out, notes + other_notes + more)


def _separate(opened: Opened, reading: Reading, test: Part) -> Records:
    """Train and test of a dataset that has both."""
    tables, notes = [], []
    for part, key in ((opened.train, "train"), (test, "test")):
        table, some = _table(part, reading)
        index, more = limit(opened.spec, key, len(table))
        tables.append(_selected(table, index))
        notes += some + more
    return Records(tables[0], tables[1], notes)


def _selected(table: Dataset, index: np.ndarray | None) -> Any:
    return table if index is None else table.select(index)


def _table(part: Part, reading: Reading, index: np.ndarray | None = None) -> tuple[Dataset, list[str]]:
    """All records of a part as a table, and notes about those that were skipped."""
    if part.table is not None:
        if holds_tokens(part.table.column_names, reading):
            return _selected(_numbered(part.table), index), []
        return records_table(table_rows(part.table, part.label, index), part.label, reading)
    if part.columns is not None:
        return _numbered(arrays_table(part.columns(), part.label)), []
    rows, tokenised = _looked_at(part, reading)
    return (tokens_table if tokenised else records_table)(rows, part.label, reading)


def _numbered(table: Dataset) -> Dataset:
    """The table with the number of each row, for what is said of it after rows were picked."""
    numbers: Any = np.arange(1, len(table) + 1)
    return table.add_column("source_row", numbers)


def _looked_at(part: Part, reading: Reading) -> tuple[Iterator[Row | BadRow], bool]:
    """The rows, and whether the first good one holds tokens.

    Raises:
        DataError: it does not, and tokenised rows were announced.
    """
    rows, seen = part.rows(), list[Row | BadRow]()
    first: Row | None = None
    while first is None and (row := next(rows, None)) is not None:
        seen.append(row)
        first = row if isinstance(row, Row) else None
    tokenised = first is not None and holds_tokens(first.fields, reading)
    if reading.preprocessed and first is not None and not tokenised and part.table is None:
        raise DataError(
            "load_preprocessed_data reads a folder made by save_to_disk or unmask prepare, or other rows of tokens, "
            f"but {first.where} holds no input_ids (found: {', '.join(list(first.fields)[:8])}). "
            "Leave the option out to read other data"
        )
    return itertools.chain(seen, rows), tokenised


# Streams


def _streamed(opened: Opened, reading: Reading) -> Records:
    spec = opened.spec
    if opened.made:
        test = None if opened.test is None else _table(opened.test, reading)[0]
        return Records(_start(opened.train, reading, 0, None), test)
    if spec.seed is not None:
        raise ConfigError(f'dataset "{spec}": a stream is not shuffled, so seed has no effect; leave it out')
    wanted, tests = _whole_number(spec, "train"), _whole_number(spec, "test")
    first = 0 if opened.test else tests or 0
    start = _start(opened.train, reading, first, None if wanted is None else first + wanted)
    if tests is None:
        return Records(start)
    source = opened.test or opened.train
    rows, tokenised = _looked_at(source, reading)
    return Records(start, first_records(rows, source.label, reading, tests, tokenised))


def _start(part: Part, reading: Reading, first: int, last: int | None) -> Start:
    def start() -> Iterator[dict[str, Any]]:
        rows, tokenised = _looked_at(part, reading)
        return itertools.islice(records_stream(rows, part.label, reading, tokenised), first, last)

    return start


def _whole_number(spec: DatasetSpec, key: str) -> int | None:
    value = getattr(spec, key)
    if isinstance(value, float):
        raise ConfigError(f'dataset "{spec}": a stream has no known length; give {key} as a number of rows')
    return value
