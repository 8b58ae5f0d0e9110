"""JSON lines and JSON arrays -> rows with their lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unmask.data.formats.lines import TextLines, byte_lines, decoded, open_bytes
from unmask.data.rows import BadRow, Row, json_type
from unmask.errors import DataError

_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()


def json_lines(path: Path) -> Iterator[Row | BadRow]:
    """The objects of a file that has one per line; empty lines are passed over."""
    for number, line in byte_lines(path):
        if line.strip():
            row = _row_or_problem(line, path, number)
            first_is_broken = number == 1 and isinstance(row, BadRow) and row.kind == "json"
            if first_is_broken and (whole := _one_object(path)):
                yield whole
                return
            yield row


def json_file(path: Path) -> Iterator[Row | BadRow]:
    """The objects of an array, or of lines, whichever the file holds."""
    start = next((line.lstrip() for _, line in byte_lines(path) if line.strip()), b"")
    return _json_array(path) if start.startswith(b"[") else json_lines(path)


def _row_or_problem(line: bytes, path: Path, number: int) -> Row | BadRow:
    try:
        return _row(line, path, number)
    except BadRow as problem:
        return problem


def _row(line: bytes, path: Path, number: int) -> Row:
    where = f"{path}:{number}"
    text = decoded(line, where).rstrip("\r\n")
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
        with open_bytes(path) as stream:
            value = json.load(stream)
    except (ValueError, RecursionError, EOFError, OSError):
        return None
    keys = ", ".join(list(value)[:5]) if isinstance(value, dict) else json_type(value)
    return BadRow(str(path), f"is one object ({keys}); expected an array of objects, or one object per line", "shape")


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRow(where, f"expected an object, got {json_type(value)}", "object")
    return value


def _problem(text: str) -> str:
    return (text[:1].lower() + text[1:]).removesuffix(" at").removesuffix(" starting")


def _json_array(path: Path) -> Iterator[Row | BadRow]:
    """Decode element by element, so that each row has its line; after broken syntax no later row can be told apart."""
    lines = TextLines(path)
    text = "".join(lines)
    place, counted, line = text.index("[") + 1, 0, 1
    while (element := _element(lines, text, place)) is not None:
        start, value, place = element
        line, counted = line + text.count("\n", counted, start), start
        where, last = f"{path}:{line}", line + text.count("\n", start, place)
        if problem := lines.problem(line, last):
            yield problem
        elif isinstance(value, dict):
            yield Row(where, value)
        else:
            yield BadRow(where, f"expected an object, got {json_type(value)}", "object")


def _element(lines: TextLines, text: str, place: int) -> tuple[int, Any, int] | None:
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
        raise _array_problem(lines, text, problem) from problem
    after = _skip_space(text, start + 1)
    if after < len(text):
        raise DataError(f'{lines.path}:{text.count(chr(10), 0, after) + 1} has text after the closing "]" of its array')
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


def _array_problem(lines: TextLines, text: str, problem: Exception) -> DataError:
    path, end = lines.path, text.count("\n", 0, len(text.rstrip())) + 1
    cut_off = DataError(f"{path}:{end} ends in the middle of a record; the file may be cut off")
    if isinstance(problem, IndexError):
        return cut_off
    if not isinstance(problem, json.JSONDecodeError):
        return DataError(f"{path} invalid JSON: {_problem(str(problem))}")
    if problem.pos >= len(text.rstrip()):
        return cut_off
    return lines.problem(problem.lineno, problem.lineno) or DataError(
        f"{path}:{problem.lineno}:{problem.colno} invalid JSON: {_problem(problem.msg)}. "
        "In an array no later row can be read; one object per line (.jsonl) lets bad rows be skipped"
    )
