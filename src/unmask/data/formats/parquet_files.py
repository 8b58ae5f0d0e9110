"""Parquet files -> rows with their numbers, a thousand in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from unmask.data.formats.lines import not_utf8
from unmask.data.rows import BadRow, Row
from unmask.errors import DataError

_BATCH = 1000


def parquet_file(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a file.

    Raises:
        DataError: it is no Parquet file, is cut off or is damaged.
    """
    number = 0
    for batch in _batches(path):
        yield from rows_of(batch, [f"{path} row {number + index + 1}" for index in range(len(batch))])
        number += len(batch)


def rows_of(batch: pa.RecordBatch | pa.Table, places: list[str]) -> Iterator[Row | BadRow]:
    """The rows of some Arrow data, each with its place; one that is no UTF-8 is a bad row."""
    try:
        yield from map(Row, places, batch.to_pylist())
    except (UnicodeDecodeError, SystemError):
        for index, where in enumerate(places):
            yield _one(batch.slice(index, 1), where)


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    rows = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield batch
                rows += len(batch)
    # A damaged name of a column fails to decode.
    except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
        # Arrow's own words end in advice for its programmers.
        reason = str(problem).split("\n")[0].split(". ")[0].rstrip(".")
        place = f"from row {rows + 1} on" if rows else "as Parquet"
        raise DataError(
            f"{path} cannot be read {place}: {reason[:1].lower() + reason[1:]}; the file may be cut off"
        ) from problem


def _one(row: pa.RecordBatch | pa.Table, where: str) -> Row | BadRow:
    try:
        return Row(where, row.to_pylist()[0])
    except UnicodeDecodeError as problem:
        return not_utf8(where, problem)
    except SystemError:
        return BadRow(where, "cannot be read; the file is damaged", "damage")
