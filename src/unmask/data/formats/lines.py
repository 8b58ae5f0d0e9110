"""Lines of a file, gzipped or not, numbered from 1; where they are no UTF-8 is noted, not guessed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unmask.data.rows import BadRow
from unmask.errors import DataError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def open_bytes(path: Path) -> Any:
    """The file's content as a binary stream, unpacked."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line with its number.

    Raises:
        DataError: the file cannot be opened, or ends in the middle of its compressed data.
    """
    number = 0
    try:
        with open_bytes(path) as stream:
            for number, line in enumerate(stream, 1):
                yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
    except (EOFError, zlib.error) as problem:
        where = f"{path}:{number + 1}"
        raise DataError(f"{where} ends in the middle of its compressed data; the file may be cut off") from problem
    except gzip.BadGzipFile as problem:
        raise DataError(f"{path} is named .gz but is not gzip data, or is damaged: {problem}") from problem
    except OSError as problem:
        raise DataError(f"cannot read {path}: {problem.strerror or problem}") from problem


def decoded(line: bytes, where: str) -> str:
    """The line as text.

    Raises:
        BadRow: it is no UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as problem:
        raise not_utf8(where, problem) from problem


def not_utf8(where: str, problem: UnicodeDecodeError) -> BadRow:
    """What to say of bytes that are no UTF-8."""
    byte = f"byte {problem.start + 1}: not valid UTF-8 (0x{problem.object[problem.start]:02x})"
    return BadRow(where, f"{byte}. Convert the file: iconv -f ENCODING -t UTF-8", "utf-8")


class TextLines:
    """The lines of a file as text, for readers whose rows may go on over several lines.

    Attributes:
        problems: line number -> what is wrong with a line's bytes; the text has lone surrogates in their place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: dict[int, BadRow] = {}

    def __iter__(self) -> Iterator[str]:
        for number, line in byte_lines(self.path):
            try:
                yield decoded(line, f"{self.path}:{number}")
            except BadRow as problem:
                self.problems[number] = problem
                yield line.decode(errors="surrogateescape")

    def problem(self, first: int, last: int) -> BadRow | None:
        """The first problem in a range of lines, both included."""
        return next((self.problems[line] for line in self.problems if first <= line <= last), None)
