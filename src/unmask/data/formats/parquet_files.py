"""Parquet files -> rows with their numbers, a thousand in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        for fields in _fields(batch, path, number):
            number += 1
            where = f"{path} row {number}"
            yield fields if isinstance(fields, BadRow) else Row(where, fields)


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    rows = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield batch
                rows += len(batch)
    except (pa.ArrowException, OSError) as problem:
        # Arrow's own words end in advice for its programmers.
        reason = str(problem).split("\n")[0].split(". ")[0].rstrip(".")
        place = f"from row {rows + 1} on" if rows else "as Parquet"
        raise DataError(
            f"{path} cannot be read {place}: {reason[:1].lower() + reason[1:]}; the file may be cut off"
        ) from problem


def _fields(batch: pa.RecordBatch, path: Path, before: int) -> list[dict[str, Any] | BadRow]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        return [_one(batch.slice(index, 1), f"{path} row {before + index + 1}") for index in range(len(batch))]


def _one(row: pa.RecordBatch, where: str) -> dict[str, Any] | BadRow:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError as problem:
        return not_utf8(where, problem)
