"""Rows of token ids in numpy's own files, as a folder of arrays or as one `.npy`.

`input_ids.npy` is `[rows, length]`. Beside it may lie `prompt_lengths.npy` `[rows]` (what comes before is the prompt),
and, from `unmask prepare`, `lengths.npy` `[rows]` (what comes after is padding), `may_noise.npy` and `document.npy`
`[rows, length]`. Nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa

from unmask.data.rows import BadRow, Row
from unmask.errors import DataError

TOKENS = "input_ids.npy"
# file -> column, and whether there is one number per row rather than per token
BESIDE = {
    "prompt_lengths.npy": ("prompt_len", True),
    "may_noise.npy": ("may_noise", False),
    "document.npy": ("document", False),
}
LENGTHS = "lengths.npy"
_BATCH = 1000


@dataclass(frozen=True)
class TokenArrays:
    """Memory-mapped rows.

    Attributes:
        path: of the ids. input_ids: integers `[rows, length]`. lengths: `[rows]`, where the padding begins.
        columns: further columns, by name, `[rows]` or `[rows, length]`.
    """

    path: Path
    input_ids: np.ndarray
    lengths: np.ndarray
    columns: dict[str, np.ndarray]

    def row(self, index: int) -> dict[str, Any]:
        """The columns of one row, padding cut off, as Python values."""
        length = int(self.lengths[index])
        cut = {
            name: values[index, :length] if values.ndim == 2 else values[index] for name, values in self.columns.items()
        }
        return {name: value.tolist() for name, value in {"input_ids": self.input_ids[index, :length], **cut}.items()}


def token_file(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a `.npy` file, with what lies beside it if it is called `input_ids.npy`."""
    arrays = open_tokens(path)
    return (Row(f"{path} row {index + 1}", arrays.row(index)) for index in range(len(arrays.input_ids)))


def token_columns(path: Path) -> Iterator[dict[str, pa.Array]]:
    """The same rows as Arrow columns, a thousand at a time, without unpacking them.

    What belongs to which document is always said, and is nothing where the rows are not a corpus.

    Raises:
        DataError: as `open_tokens`; an id is beyond int32.
    """
    arrays = open_tokens(path)
    documents = {} if arrays.columns else {"document": np.broadcast_to(np.int32(0), arrays.input_ids.shape)}
    for start in range(0, len(arrays.input_ids), _BATCH):
        stop = start + _BATCH
        inside = np.arange(arrays.input_ids.shape[1]) < arrays.lengths[start:stop, None]
        named = {"input_ids": arrays.input_ids, **documents, **arrays.columns}
        yield {name: _column(path, name, values[start:stop], inside) for name, values in named.items()}


def _column(path: Path, name: str, values: np.ndarray, inside: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values.astype(np.int64))
    flat = values[inside]
    if name == "may_noise":
        flat = flat.astype(bool)
    elif len(flat) and not -(2**31) <= int(flat.min()) <= int(flat.max()) < 2**31:
        raise DataError(f"{path} holds {name} beyond int32, from {flat.min()} to {flat.max()}; no token has such an id")
    else:
        flat = flat.astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(inside.sum(1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def open_tokens(path: Path) -> TokenArrays:
    """The arrays of a `.npy` file.

    Raises:
        DataError: an array has the wrong type or shape, is cut off, or holds pickled objects.
    """
    ids = _array(path, 2)
    if ids.dtype == bool:
        raise _unfit(path, ids, 2)
    rows, length = ids.shape
    beside = {file: path.with_name(file) for file in (*BESIDE, LENGTHS) if path.name == TOKENS}
    found = {file: _fitting(place, file, ids) for file, place in beside.items() if place.exists()}
    lengths = found.pop(LENGTHS, np.full(rows, length))
    if rows and not (int(lengths.min()) >= 0 and int(lengths.max()) <= length):
        raise DataError(f"{path.with_name(LENGTHS)} names lengths outside 0 to {length:,}, the width of {path.name}")
    return TokenArrays(path, ids, lengths, {BESIDE[file][0]: values for file, values in found.items()})


def _fitting(path: Path, file: str, ids: np.ndarray) -> np.ndarray:
    per_row = file == LENGTHS or BESIDE[file][1]
    values = _array(path, 1 if per_row else 2)
    wanted = ids.shape[:1] if per_row else ids.shape
    if values.shape != wanted:
        raise DataError(f"{path} has the shape {list(values.shape)}, but {TOKENS} beside it needs {list(wanted)}")
    return values


def _array(path: Path, dimensions: int) -> np.ndarray:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    # Numpy reads the header as a Python literal.
    except (ValueError, EOFError, OSError, SyntaxError, TokenError, MemoryError, OverflowError, TypeError) as problem:
        reason = str(problem).split("\n")[0]
        raise DataError(f"{path} cannot be read as a numpy array: {reason}; the file may be cut off") from problem
    if not isinstance(values, np.ndarray) or values.ndim != dimensions or values.dtype.kind not in "iub":
        raise _unfit(path, values, dimensions)
    return values


def _unfit(path: Path, values: Any, dimensions: int) -> DataError:
    shape = "[rows, length]" if dimensions == 2 else "[rows]"
    got = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__
    return DataError(f"{path} holds {got}; expected whole numbers (int32) of shape {shape}")
