"""The files of a table corpus: a folder as it was released, or the same with its tables still packed as .tar.gz.

Every complaint names a file and, where there is one, a line. Nothing is unpacked to disk. Knows no corpus.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from unmask.errors import DataError, did_you_mean

Cells = list[list[str]]


class CorpusFolder:
    """A folder, and what lies in its archives."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_dir():
            raise DataError(f"data_dir {path} is no folder. Give the folder of the corpus as it was released.")

    @cached_property
    def packed(self) -> dict[str, bytes]:
        """Name -> content of the files in the archives on top of the folder."""
        return dict(member for archive in sorted(self.path.glob("*.tar.gz")) for member in _members(archive))

    def find(self, *names: str) -> Path | None:
        """The first of some paths below the folder that is a file."""
        return next((self.path / name for name in names if (self.path / name).is_file()), None)

    def names(self, pattern: str) -> list[str]:
        """File names below the folder that match, without what the pattern's star does not stand for."""
        before, _, after = pattern.rpartition("/")[2].partition("*")
        return sorted(path.name[len(before) : len(path.name) - len(after)] for path in self.path.glob(pattern))

    def text(self, *names: str, wanted_by: str) -> tuple[str, str]:
        """Where a file lies and its text: the first of `names` that exists, in the folder or in an archive.

        Raises:
            DataError: there is none, or it is not UTF-8.
        """
        found = self.find(*names)
        if found is not None:
            return str(found), _decoded(_read(found), str(found))
        name = next((name for name in names if name in self.packed), None)
        if name is None:
            raise DataError(
                f"{wanted_by}: there is no {names[0]} in {self.path} or in an archive there. "
                "Copy the tables of the corpus into the folder."
            )
        return f"{self.path}: {name}", _decoded(self.packed[name], f"{self.path}: {name}")

    def split_file(self, split: str, places: Sequence[str]) -> Path:
        """The file of a split; `places` are its possible paths, with a star for the split's name.

        Raises:
            DataError: there is none; the message lists the splits that there are.
        """
        found = self.find(*(place.replace("*", split) for place in places))
        if found is None:
            there = [name for place in places for name in self.names(place)]
            listed = (
                f"splits there: {', '.join(there)}.{did_you_mean(split, there)}" if there else f"no {places[0]} there."
            )
            raise DataError(f'no split "{split}" in {self.path}; {listed}')
        return found


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Place (`file:line`, from 1) and text of every line that is not empty.

    Raises:
        DataError: a line is not UTF-8.
    """
    for number, line in enumerate(_read(path).split(b"\n"), 1):
        if line.strip():
            yield f"{path}:{number}", _decoded(line.removesuffix(b"\r"), f"{path}:{number}")


def read_json(path: Path, kind: type, shape: str) -> Any:
    """A JSON file that holds a `kind`.

    Raises:
        DataError: broken JSON, or something else; `shape` says what is expected.
    """
    try:
        value = json.loads(_decoded(_read(path), str(path)))
    except json.JSONDecodeError as problem:
        raise DataError(f"{path}:{problem.lineno}:{problem.colno} invalid JSON: {problem.msg}.") from None
    if not isinstance(value, kind):
        raise DataError(f"{path} holds a {type(value).__name__}; expected {shape}.")
    return value


def read_csv(text: str, where: str) -> Cells:
    r"""Rows of cells; a quote inside a cell is written `\"`, a backslash `\\`.

    Raises:
        DataError: no header, or a row of another length.
    """
    reader = csv.reader(io.StringIO(text, newline=""), doublequote=False, escapechar="\\", strict=True)
    rows: Cells = []
    try:
        for row in reader:
            rows += [_checked(row, rows, f"{where}:{reader.line_num}")] if row else []
    except csv.Error as problem:
        raise DataError(f"{where}:{reader.line_num} cannot be read as csv: {problem}.") from None
    return _with_header(rows, where)


def read_hash_separated(text: str, where: str) -> Cells:
    """Rows of cells between `#`, a line each.

    Raises:
        DataError: no header, or a row of another length.
    """
    rows: Cells = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            rows.append(_checked(line.removesuffix("\r").split("#"), rows, f"{where}:{number}"))
    return _with_header(rows, where)


def _checked(row: list[str], before: Cells, where: str) -> list[str]:
    if before and len(row) != len(before[0]):
        raise DataError(f"{where} has {len(row)} cells, the header {len(before[0])}. Mend the table or copy it again.")
    return row


def _with_header(rows: Cells, where: str) -> Cells:
    if not rows:
        raise DataError(f"{where} holds no table: not even a header. Copy it again.")
    return rows


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as problem:
        raise DataError(f"cannot read {path}: {problem.strerror or problem}.") from None


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as problem:
        raise DataError(f"{where} byte {problem.start + 1}: not valid UTF-8. Convert the file to UTF-8.") from None


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(archive, "r:gz") as opened:
            for member in opened:
                content = opened.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield member.name.removeprefix("./"), content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as problem:
        raise DataError(f"{archive} cannot be read: {problem}. It may be cut off; copy it again.") from None
