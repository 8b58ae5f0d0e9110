"""Comma- and tab-separated values -> rows with the line where each starts.

Every value is text; an empty cell is an empty text. A column that holds a list (messages, conversations) holds it as
JSON. In .csv a cell may be quoted and then go on over lines (RFC 4180); in .tsv a row is a line and a quote is a
character like any other, as in the data sets that use it (IANA's text/tab-separated-values).
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from unmask.data.formats.lines import TextLines
from unmask.data.rows import BadRow, Row
from unmask.errors import DataError


def csv_file(path: Path) -> Iterator[Row | BadRow]:
    """The rows below the header of a .csv file; empty lines are passed over."""
    # The library's limit of 128 KiB per cell is shorter than many a document.
    csv.field_size_limit(sys.maxsize)
    lines = TextLines(path)
    reader = csv.reader(lines, strict=True)
    return _rows(lines, _numbered(reader, path))


def tsv_file(path: Path) -> Iterator[Row | BadRow]:
    """The rows below the header of a .tsv file; empty lines are passed over."""
    lines = TextLines(path)
    cells = ((number, number, line.rstrip("\r\n").split("\t")) for number, line in enumerate(lines, 1))
    return _rows(lines, ((first, last, row if row != [""] else []) for first, last, row in cells))


def _numbered(reader: csv.reader, path: Path) -> Iterator[tuple[int, int, list[str] | BadRow]]:  # type: ignore[valid-type]
    """First line, last line, cells."""
    while True:
        first = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as problem:
            row = BadRow(f"{path}:{first}", _reason(str(problem)), "csv")
        if row is None:
            return
        yield first, reader.line_num, row


def _reason(problem: str) -> str:
    if "unexpected end" in problem:
        return "ends in the middle of a quoted cell; a quote is not closed, or the file is cut off"
    return f"invalid CSV: {problem}"


def _rows(lines: TextLines, found: Iterator[tuple[int, int, list[str] | BadRow]]) -> Iterator[Row | BadRow]:
    header = _header(lines, found)
    for first, last, cells in found:
        where = f"{lines.path}:{first}"
        if problem := lines.problem(first, last):
            yield problem
        elif isinstance(cells, BadRow):
            yield cells
        elif cells and len(cells) != len(header):
            yield BadRow(where, f"has {len(cells)} cells, but the header has {len(header)}", "cells")
        elif cells:
            yield Row(where, dict(zip(header, cells, strict=True)))


def _header(lines: TextLines, found: Iterator[tuple[int, int, list[str] | BadRow]]) -> list[str]:
    first, last, cells = next((row for row in found if row[2]), (1, 1, list[str]()))
    where = f"{lines.path}:{first}"
    problem = lines.problem(first, last) or (cells if isinstance(cells, BadRow) else None)
    if problem:
        raise DataError(f"{problem}. It is the header, without which no row can be read")
    names = [cell.strip() for cell in cells]  # type: ignore[union-attr]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f'{where} the header names the column "{twice}" twice. Rename one')
    return names
