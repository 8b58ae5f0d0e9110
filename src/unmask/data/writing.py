"""Tokenised sets -> files: Arrow as `save_to_disk` writes it, JSON lines, or numpy arrays.

Every format is read back, by `sources`, to the same rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict

from unmask.data.formats.token_arrays import LENGTHS, TOKENS

Format = Literal["arrow", "jsonl", "npy"]
_BATCH = 1000


def write_sets(sets: dict[str, Dataset], folder: Path, to: Format, *, width: int, fill: int) -> None:
    """Write the sets "train" and, where there is one, "test" into a folder.

    Args:
        sets: with the column `input_ids`, and `may_noise` or `document`.
        folder: there already. to: the format.
        width: tokens of a row of an array. fill: the id that fills up shorter rows of an array.
    """
    if to == "arrow":
        _write_arrow(sets, folder)
    for name, rows in sets.items():
        if to == "jsonl":
            _write_jsonl(rows, folder / f"{name}.jsonl")
        elif to == "npy":
            place = folder / name if len(sets) > 1 else folder
            place.mkdir(exist_ok=True)
            _write_arrays(rows, place, width, fill)


def write_places(places: Iterable[np.ndarray], file: Path, rows: int) -> None:
    """Where documents begin, int64 `[documents, 2]` at a time, as an Arrow file; those beyond `rows` are left out."""
    schema = pa.schema([("row", pa.int64()), ("column", pa.int32())])
    with pa.ipc.new_stream(str(file), schema) as stream:
        for some in places:
            row, column = some[some[:, 0] < rows].T
            stream.write_batch(
                pa.RecordBatch.from_arrays([pa.array(row), pa.array(column.astype(np.int32))], schema=schema)
            )


def flush_folder(folder: Path) -> None:
    """Wait until everything in a folder is on the disk, so that a later move of it can be trusted."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_arrow(sets: dict[str, Dataset], folder: Path) -> None:
    # One set is a plain folder, as the library's own users expect it.
    several: Any = sets
    saved = DatasetDict(several) if len(sets) > 1 else next(iter(sets.values()))
    saved.save_to_disk(str(folder))


def _write_jsonl(rows: Dataset, file: Path) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, separators=(",", ":")) + "\n")


def _write_arrays(rows: Dataset, folder: Path, width: int, fill: int) -> None:
    count, lengths = len(rows), np.zeros(len(rows), np.int32)
    ids = np.lib.format.open_memmap(folder / TOKENS, "w+", np.int32, (count, width))
    ids[:] = fill
    for index, row in _numbered(rows):
        lengths[index] = len(row["input_ids"])
        ids[index, : lengths[index]] = row["input_ids"]
    ids.flush()
    if (lengths != width).any():
        np.save(folder / LENGTHS, lengths)
    (_write_answers if "may_noise" in rows.column_names else _write_documents)(rows, folder, (count, width))


def _write_answers(rows: Dataset, folder: Path, shape: tuple[int, int]) -> None:
    """Where each answer begins; where that is not all there is to say, also which tokens belong to answers."""
    starts = np.array([int(np.argmax(row["may_noise"])) for _, row in _numbered(rows)], np.int32)
    np.save(folder / "prompt_lengths.npy", starts)
    if any(not np.all(row["may_noise"][starts[index] :]) for index, row in _numbered(rows)):
        _fill(rows, folder / "may_noise.npy", "may_noise", np.dtype(bool), shape)


def _write_documents(rows: Dataset, folder: Path, shape: tuple[int, int]) -> None:
    if any(np.any(row["document"]) for _, row in _numbered(rows)):
        _fill(rows, folder / "document.npy", "document", np.dtype(np.int32), shape)


def _fill(rows: Dataset, file: Path, column: str, dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
    values = np.lib.format.open_memmap(file, "w+", dtype, shape)
    for index, row in _numbered(rows):
        values[index, : len(row[column])] = row[column]
    values.flush()


def _numbered(rows: Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
    read: Callable[[], Any] = rows.with_format("numpy").iter(batch_size=_BATCH).__iter__
    index = 0
    for batch in read():
        for values in zip(*batch.values(), strict=True):
            yield index, dict(zip(batch, values, strict=True))
            index += 1
