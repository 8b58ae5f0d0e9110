"""Files of rows -> rows that know where they come from (`file:line`), or what is wrong with them.

Reads JSON lines, JSON arrays and plain text, each also gzipped, with the standard library alone: other readers report
a broken line without its place, and let invalid UTF-8 and rows of the wrong type pass. What a row means is for
`records`.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from unmask.errors import DataError

DOCUMENT_SEPARATOR = "<|endoftext|>"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()


class BadRow(DataError):
    """A row that cannot be used: where it is, why, and a word (`kind`) that rows with the same problem share."""

    def __init__(self, where: str, reason: str, kind: str = "json") -> None:
        super().__init__(where, reason, kind)
        self.where, self.reason, self.kind = where, reason, kind

    def __str__(self) -> str:
        return f"{self.where} {self.reason}"


class Row(NamedTuple):
    """One object of a dataset and its place, as `file:line` or `dataset row 7`."""

    where: str
    fields: dict[str, Any]


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a .json, .jsonl or .txt file (or the same with .gz), in order.

    A .json file holds an array of objects, or one object per line as .jsonl does. A .txt file is one document, or
    several where it contains `<|endoftext|>` between them; newlines around that separator belong to no document.

    Raises:
        DataError: the file cannot be read further: cut off while compressed, or a broken array.
    """
    rows = _READERS[file_kind(path)](path)
    while (row := _next(rows, path)) is not None:
        yield row


def _next(rows: Iterator[Row | BadRow], path: Path) -> Row | BadRow | None:
    try:
        return next(rows, None)
    except (EOFError, zlib.error) as problem:
        raise DataError(f"{path} ends in the middle of its compressed data; the file may be cut off") from problem
    except gzip.BadGzipFile as problem:
        raise DataError(f"{path} is named .gz but is not gzip data: {problem}") from problem
    except OSError as problem:
        raise DataError(f"cannot read {path}: {problem.strerror or problem}") from problem


def file_kind(path: Path) -> str:
    """The suffix that says how a file is read, `.gz` taken off: ".jsonl" of "a.jsonl.gz"."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with _open(path) as stream:
        for number, line in enumerate(stream, 1):
            yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as problem:
        reason = (
            f"byte {problem.start + 1}: not valid UTF-8 (0x{line[problem.start]:02x}). "
            "Convert the file: iconv -f ENCODING -t UTF-8"
        )
        raise BadRow(where, reason, "utf-8") from problem


def _json_lines(path: Path) -> Iterator[Row | BadRow]:
    for number, line in _lines(path):
        if line.strip():
            row = _json_row_or_problem(line, path, number)
            first_is_broken = number == 1 and isinstance(row, BadRow) and row.kind == "json"
            yield _one_object(path) or row if first_is_broken else row


def _json_row_or_problem(line: bytes, path: Path, number: int) -> Row | BadRow:
    try:
        return _json_row(line, path, number)
    except BadRow as problem:
        return problem


def _json_row(line: bytes, path: Path, number: int) -> Row:
    where = f"{path}:{number}"
    text = _decoded(line, where).rstrip("\r\n")
    try:
        return Row(where, _object(json.loads(text), where))
    except json.JSONDecodeError as problem:
        cut_off = problem.pos >= len(text.rstrip()) or problem.msg.startswith("Unterminated string")
        if cut_off and not line.endswith(b"\n"):
            raise BadRow(where, "ends in the middle of a record; the file may be cut off") from problem
        raise BadRow(f"{where}:{problem.colno}", f"invalid JSON: {_problem(problem.msg)}") from problem
    except (ValueError, RecursionError) as problem:
        raise BadRow(where, f"invalid JSON: {_problem(str(problem))}") from problem


def _one_object(path: Path) -> BadRow | None:
    """The complaint about a file that is a single object spread over lines, or None if it is not."""
    try:
        with _open(path) as stream:
            value = json.load(stream)
    except (ValueError, RecursionError):
        return None
    keys = ", ".join(list(value)[:5]) if isinstance(value, dict) else json_type(value)
    return BadRow(str(path), f"is one object ({keys}); expected an array of objects, or one object per line", "shape")


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRow(where, f"expected an object, got {json_type(value)}", "object")
    return value


def json_type(value: Any) -> str:
    """What JSON calls the type of a value, with the value where that is short: `number 5`, `null`, `array`."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"number {value}"
    return {str: "string", list: "array", dict: "object"}.get(type(value), type(value).__name__)


def _problem(text: str) -> str:
    return (text[:1].lower() + text[1:]).removesuffix(" at").removesuffix(" starting")


def _json_file(path: Path) -> Iterator[Row | BadRow]:
    with _open(path) as stream:
        while (start := stream.read(4096).removeprefix(_BYTE_ORDER_MARK)) and not start.strip():
            continue
    return _json_array(path) if start.lstrip().startswith(b"[") else _json_lines(path)


def _json_array(path: Path) -> Iterator[Row | BadRow]:
    """Decode element by element, so that each row has its line; after broken syntax no later row can be told apart."""
    text = "".join(_decoded(line, f"{path}:{number}") for number, line in _lines(path))
    place, counted, line = text.index("[") + 1, 0, 1
    while (element := _element(path, text, place)) is not None:
        start, value, place = element
        line, counted = line + text.count("\n", counted, start), start
        where = f"{path}:{line}"
        if isinstance(value, dict):
            yield Row(where, value)
        else:
            yield BadRow(where, f"expected an object, got {json_type(value)}", "object")


def _element(path: Path, text: str, place: int) -> tuple[int, Any, int] | None:
    """Start, value and the place after its comma of the array's element at `place`; None at the end of the array.

    Raises:
        DataError: the syntax is broken, or there is more after the array.
    """
    try:
        start = _skip_space(text, place)
        if text[start] != "]":
            value, stop = _DECODER.raw_decode(text, start)
            return start, value, _after_comma(text, stop)
    except (ValueError, IndexError, RecursionError) as problem:
        raise _array_problem(path, text, problem) from problem
    after = _skip_space(text, start + 1)
    if after < len(text):
        raise DataError(f'{path}:{text.count(chr(10), 0, after) + 1} has text after the closing "]" of its array')
    return None


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _after_comma(text: str, place: int) -> int:
    place = _skip_space(text, place)
    if text[place] == ",":
        after = _skip_space(text, place + 1)
        if text[after] == "]":
            raise json.JSONDecodeError("Illegal trailing comma before end of array", text, place)
        return after
    if text[place] != "]":
        raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
    return place


def _array_problem(path: Path, text: str, problem: Exception) -> DataError:
    if isinstance(problem, IndexError):
        return DataError(f"{path} ends in the middle of a record; the file may be cut off")
    if not isinstance(problem, json.JSONDecodeError):
        return DataError(f"{path} invalid JSON: {_problem(str(problem))}")
    if problem.pos >= len(text.rstrip()):
        return DataError(f"{path} ends in the middle of a record; the file may be cut off")
    return DataError(
        f"{path}:{problem.lineno}:{problem.colno} invalid JSON: {_problem(problem.msg)}. "
        "In an array no later row can be read; one object per line (.jsonl) lets bad rows be skipped"
    )


def _text_file(path: Path) -> Iterator[Row | BadRow]:
    parts: list[str] = []
    start, separated = 1, False
    for number, line in _lines(path):
        text = _text_or_problem(line, f"{path}:{number}")
        if isinstance(text, BadRow):
            yield text
            continue
        head, *others = text.split(DOCUMENT_SEPARATOR)
        parts.append(head)
        for other in others:
            separated = True
            yield from _document(path, start, "".join(parts).strip("\n"))
            parts, start = [other], number
    text = "".join(parts)
    yield from _document(path, start, text.strip("\n") if separated else text)


def _text_or_problem(line: bytes, where: str) -> str | BadRow:
    try:
        return _decoded(line, where).replace("\r\n", "\n")
    except BadRow as problem:
        return problem


def _document(path: Path, line: int, text: str) -> Iterator[Row]:
    if text.strip():
        yield Row(f"{path}:{line}", {"text": text})


_READERS = {".json": _json_file, ".jsonl": _json_lines, ".ndjson": _json_lines, ".txt": _text_file}
KINDS = tuple(_READERS)
