"""Files of rows -> rows that know where they come from (`file:line`), or what is wrong with them.

One reader per kind of file, found by its suffix. They are our own: other readers report a broken line without its
place, and let invalid UTF-8 and rows of the wrong type pass. What a row means is for `records`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from unmask.data.formats.csv_files import csv_file, tsv_file
from unmask.data.formats.json_files import json_file, json_lines
from unmask.data.formats.parquet_files import parquet_file
from unmask.data.formats.text_files import text_file
from unmask.data.formats.token_arrays import token_file
from unmask.data.rows import BadRow, Row

READERS: dict[str, Callable[[Path], Iterator[Row | BadRow]]] = {
    ".json": json_file,
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".txt": text_file,
    ".csv": csv_file,
    ".tsv": tsv_file,
    ".parquet": parquet_file,
    ".npy": token_file,
}
# .gz may follow these.
TEXT_KINDS = (".json", ".jsonl", ".ndjson", ".txt", ".csv", ".tsv")


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a file in order, read as they are asked for.

    A .json file holds an array of objects, or one object per line as .jsonl does. A .txt file is one document, or
    several where it contains `<|endoftext|>` between them; newlines around that separator belong to no document. A
    .csv or .tsv file has its columns' names in the first row. The last suffix but `.gz` decides.

    Raises:
        DataError: the file cannot be read further: cut off, damaged, or a broken array.
    """
    return READERS[file_kind(path)](path)


def file_kind(path: Path) -> str:
    """The suffix that says how a file is read, `.gz` taken off: ".jsonl" of "a.jsonl.gz"."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def is_readable(path: Path) -> bool:
    """Whether there is a reader for files of this name."""
    kind = file_kind(path)
    return kind in TEXT_KINDS or (kind in READERS and path.suffix != ".gz")
