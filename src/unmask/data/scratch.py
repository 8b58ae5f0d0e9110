"""Arrow files that live as long as the process: where tokenised data lies while a run uses it.

Everything is memory-mapped from a temporary folder (under TMPDIR), so a corpus need not fit into memory, and nothing
is ever taken from the library's cache, which trusts an older copy. What is to be kept is for `prepared`.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets
from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from unmask.errors import DataError

_FLUSH_ROWS = 1000
SHARD_ROWS = 20_000
_FLUSH_CHARACTERS = 1 << 25


@functools.cache
def _folder(owner: int) -> Path:
    folder = tempfile.mkdtemp(prefix="unmask-")
    atexit.register(_remove, folder, owner)
    return Path(folder)


def _remove(folder: str, owner: int) -> None:
    # A forked worker inherits the exit handlers; only the process that made the folder may remove it.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def new_file() -> Path:
    """A path for a file that is removed when this process ends."""
    return _folder(os.getpid()) / f"{uuid.uuid4().hex}.arrow"


class TableWriter:
    """Writes rows or record batches to a temporary Arrow file, then opens it as a memory-mapped dataset."""

    def __init__(self, features: Features) -> None:
        self._path = new_file()
        self.features = features
        self._stream = pa.ipc.new_stream(str(self._path), features.arrow_schema)
        self._rows: list[dict[str, Any]] = []
        self._characters = 0

    def write(self, row: dict[str, Any], characters: int = 0) -> None:
        """Add a row; `characters` is its rough size, so that long rows are not all held back."""
        self._rows.append(row)
        self._characters += characters
        if len(self._rows) >= _FLUSH_ROWS or self._characters >= _FLUSH_CHARACTERS:
            self._flush()

    def write_columns(self, columns: list[pa.Array]) -> None:
        """Add a batch of columns in the order of the features."""
        self._stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=self.features.arrow_schema))

    def _flush(self) -> None:
        self._stream.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self.features.arrow_schema))
        self._rows, self._characters = [], 0

    def finish(self) -> Dataset:
        """Close the file and open it for reading."""
        if self._rows:
            self._flush()
        self._stream.close()
        return Dataset.from_file(str(self._path))


@dataclass(frozen=True)
class Work:
    """How rows are worked on.

    Attributes:
        num_proc: processes. skip_bad_rows: count them and go on.
        shards: keep what is done in this folder, so that work that was interrupted goes on; None: in a temporary file.
    """

    num_proc: int = 1
    skip_bad_rows: bool = False
    shards: Path | None = None


def map_batches(dataset: Dataset, change: Callable[..., Any], features: Features, work: Work) -> Dataset:
    """`dataset.map` over batches of rows into `features` alone, without the library's cache.

    With `work.shards`, the result of every `SHARD_ROWS` rows is a file there, and one that is there is not made again:
    the folder must belong to this dataset and this change.
    """
    if work.shards is None or not len(dataset):
        return _mapped(dataset, change, features, work.num_proc)
    work.shards.mkdir(parents=True, exist_ok=True)
    done = []
    for start in range(0, len(dataset), SHARD_ROWS):
        file = work.shards / f"{start}.arrow"
        if not file.exists():
            rows = dataset.select(range(start, min(start + SHARD_ROWS, len(dataset))))
            draft = file.with_suffix(".draft")
            _copy(_mapped(rows, change, features, work.num_proc), draft)
            draft.replace(file)
        done.append(Dataset.from_file(str(file)))
    return concatenate_datasets(done)


def _copy(dataset: Dataset, path: Path) -> None:
    schema = dataset.features.arrow_schema
    with pa.ipc.new_stream(str(path), schema) as stream:
        for batch in dataset.with_format("arrow").iter(batch_size=_FLUSH_ROWS):
            stream.write_table(pa.table(batch).cast(schema))


def _mapped(dataset: Dataset, change: Callable[..., Any], features: Features, num_proc: int) -> Dataset:
    return dataset.map(
        change,
        batched=True,
        batch_size=_FLUSH_ROWS,
        num_proc=num_proc if num_proc > 1 and len(dataset) > num_proc else None,
        remove_columns=dataset.column_names,
        features=features,
        cache_file_name=str(new_file()),
        load_from_cache_file=False,
        new_fingerprint=uuid.uuid4().hex,
    )


def columns_in_batches(dataset: Dataset, name: str) -> Iterator[Any]:
    """One column of a table as Arrow arrays of at most a thousand rows."""
    for table in dataset.with_format("arrow").iter(batch_size=_FLUSH_ROWS):
        column: Any = table[name]  # type: ignore[index, call-overload]
        check_whole(column, name)
        yield column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def check_whole(data: Any, what: str) -> None:
    """Refuse Arrow data whose offsets point outside its buffers, as in a damaged file: Arrow would follow them.

    Texts that are no UTF-8 pass: they are found row by row, where a row can be skipped.

    Raises:
        DataError: they do.
    """
    for column in data.columns if isinstance(data, pa.Table) else [data]:
        try:
            _as_bytes(column).validate(full=True)
        except pa.ArrowInvalid as problem:
            reason = str(problem).split("\n")[0]
            raise DataError(f"{what} and those behind it cannot be read, the file is damaged: {reason}") from problem


def _as_bytes(column: Any) -> Any:
    """A column of texts as one of bytes, of which only the offsets can be wrong; any other as it is."""
    bytes_of = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
    if bytes_of is None:
        return column
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.chunked_array([chunk.view(bytes_of) for chunk in chunks], bytes_of)


@contextmanager
def quiet_unless_seen() -> Iterator[None]:
    """No progress bars where nobody would see them move."""
    hide = is_progress_bar_enabled() and not sys.stderr.isatty()
    if hide:
        disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            enable_progress_bar()
