"""A table as text, in two styles, and back.

Knows a header and rows of cells; where they come from is for others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from unmask.errors import ConfigError, did_you_mean

Style = Literal["markdown", "tagged"]
STYLES: tuple[Style, ...] = get_args(Style)
_TAG, _SEPARATOR = "[TAB] col: ", " [SEP] "
_BAR = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r"^(?P<header>\|.*\|) *\n\|(?: *:?-+:? *\|)+ *$", re.MULTILINE)
_ROW = re.compile(r"\n\|.*\|(?= *$)", re.MULTILINE)
_TAGGED = re.compile(r"^(?P<mark>(?:\[TAB\] )?(?:col: )?)(?P<rows>\|.*\|(?: \[SEP\] \|.*\|)+)", re.MULTILINE)


@dataclass(frozen=True)
class WrittenTable:
    """A table found in a text.

    Attributes:
        before, after: the text around it.
        header, rows: cells; a row may be shorter than the header in a text that was cut.
        style: how it is written.
        mark: what stands before the header of a tagged table.
    """

    before: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    after: str
    style: Style
    mark: str = ""

    def text(self, rows: int | None = None) -> str:
        """The whole text again, with the first `rows` rows; None: all."""
        written = serialise_rows(self.header, self.rows[:rows], self.style)
        return f"{self.before}{self.mark}{written.removeprefix(_TAG)}{self.after}"


def serialise_rows(header: Sequence[Any], rows: Sequence[Sequence[Any]], style: Style = "markdown") -> str:
    r"""A table as text: `markdown` has a line per row, `tagged` is one line of TableLlama's data.

    A bar in a cell becomes `\|`, a line break a space, so that no cell breaks a row.

    Raises:
        ConfigError: no such style.
    """
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in (header, *rows)]
    if style == "tagged":
        return _TAG + _SEPARATOR.join(lines)
    if style != "markdown":
        raise ConfigError(f'no table style "{style}"; styles: {", ".join(STYLES)}.{did_you_mean(style, STYLES)}')
    return "\n".join([lines[0], f"|{'|'.join(' --- ' for _ in header)}|", *lines[1:]])


def read_table(text: str) -> WrittenTable | None:
    """The first table in a text, in either style; None where there is none."""
    return _read_markdown(text) or _read_tagged(text)


def shorten(text: str, fits: Callable[[str], bool]) -> tuple[str, int] | None:
    """The text with as many first rows of its table as fit, and how many were left out; None where no row does.

    Args:
        text: holds a table.
        fits: whether a text is short enough; a text with fewer rows is never the longer one.
    """
    if fits(text):
        return text, 0
    table = read_table(text)
    if table is None:
        return None
    low, high = 0, len(table.rows) - 1  # with `low` rows it fits, or low is 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(table.text(middle)) else (low, middle - 1)
    return (table.text(low), len(table.rows) - low) if low and fits(table.text(low)) else None


def _cell(cell: Any) -> str:
    return " ".join(str(cell).split()).replace("|", r"\|")


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip().replace(r"\|", "|") for cell in _BAR.split(line.strip())[1:-1])


def _read_markdown(text: str) -> WrittenTable | None:
    """A header, a rule below it, and the rows that follow on the next lines."""
    rule = _RULE.search(text)
    if rule is None:
        return None
    end = rule.end()
    rows: list[tuple[str, ...]] = []
    while line := _ROW.match(text, end):
        rows.append(_cells(line[0]))
        end = line.end()
    return WrittenTable(text[: rule.start()], _cells(rule["header"]), tuple(rows), text[end:], "markdown")


def _read_tagged(text: str) -> WrittenTable | None:
    """Rows between `[SEP]`s on one line, with or without the mark in front."""
    found = _TAGGED.search(text)
    if found is None:
        return None
    header, *rows = (_cells(line) for line in found["rows"].split(_SEPARATOR))
    before, after = text[: found.start()], text[found.end() :]
    return WrittenTable(before, header, tuple(rows), after, "tagged", found["mark"])
