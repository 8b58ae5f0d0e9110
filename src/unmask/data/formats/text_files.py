"""Plain text -> documents with the line where each starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unmask.data.formats.lines import byte_lines, decoded
from unmask.data.rows import BadRow, Row

DOCUMENT_SEPARATOR = "<|endoftext|>"


def text_file(path: Path) -> Iterator[Row | BadRow]:
    """The file as one document, or as those between its separators."""
    parts: list[str] = []
    start, separated = 1, False
    for number, line in byte_lines(path):
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
        return decoded(line, where).replace("\r\n", "\n")
    except BadRow as problem:
        return problem


def _document(path: Path, line: int, text: str) -> Iterator[Row]:
    if text.strip():
        yield Row(f"{path}:{line}", {"text": text})
