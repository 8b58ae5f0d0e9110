"""Rows -> a table or a stream of records; bad rows stop it with a count of their like, or are skipped and counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from textwrap import shorten
from typing import Any

from datasets import Dataset, Features, List, Value

from unmask.data.records import Want, read_record
from unmask.data.rows import BadRow, Row
from unmask.data.scratch import TableWriter
from unmask.errors import DataError

_LISTED, _SHOWN = 5, 160
_MESSAGE = {"role": Value("string"), "content": Value("string")}
_FEATURES = {
    "text": Features({"text": Value("string"), "where": Value("string")}),
    "conversation": Features({"messages": List(_MESSAGE), "where": Value("string")}),
}


@dataclass(frozen=True)
class Reading:
    """How rows are read: what record is wanted of each, and what happens to a bad one."""

    want: Want
    text_field: str = "text"
    skip_bad_rows: bool = False
    preprocessed: bool = False


def records_table(rows: Iterable[Row | BadRow], label: str, reading: Reading) -> tuple[Dataset, list[str]]:
    """All records as a table with the columns `text` or `messages`, and `where`; notes about skipped rows.

    Raises:
        DataError: a bad row, after the others were counted, or no usable row.
    """
    writer = TableWriter(_FEATURES[reading.want])
    tally = _Tally(label, reading.skip_bad_rows)
    for record in _records(rows, reading, tally):
        writer.write(record, len(record.get("text", "")))
    table = writer.finish()
    tally.close()
    return table, tally.notes()


def records_stream(rows: Iterable[Row | BadRow], label: str, reading: Reading) -> Iterator[dict[str, Any]]:
    """The records one by one.

    Raises:
        DataError: a bad row, as soon as it comes, or no usable row.
    """
    tally = _Tally(label, reading.skip_bad_rows, at_once=True)
    yield from _records(rows, reading, tally)
    tally.close()


def first_records(rows: Iterable[Row | BadRow], label: str, reading: Reading, count: int) -> Dataset:
    """The first records of a stream as a table."""
    writer = TableWriter(_FEATURES[reading.want])
    for record in islice(records_stream(rows, label, reading), count):
        writer.write(record)
    table = writer.finish()
    if not len(table):
        raise DataError(f"{label}: test:{count} leaves no row for the test part")
    return table


def _records(rows: Iterable[Row | BadRow], reading: Reading, tally: _Tally) -> Iterator[dict[str, Any]]:
    for row in rows:
        tally.rows += 1
        try:
            if isinstance(row, BadRow):
                raise row
            record = read_record(row, reading.want, reading.text_field)
        except BadRow as problem:
            tally.bad(problem)
            continue
        if not tally.first:
            yield record


@dataclass
class _Tally:
    """Counts rows and bad rows; the first bad row is fatal unless they are skipped."""

    label: str
    skip: bool
    at_once: bool = False
    rows: int = 0
    skipped: list[str] = field(default_factory=list)
    count: int = 0
    first: BadRow | None = None
    alike: int = 0

    def bad(self, problem: BadRow) -> None:
        """Note a bad row; those after the first fatal one are only counted, for its message, but not in a stream."""
        self.count += 1
        if self.skip:
            self.skipped += [shorten(str(problem), _SHOWN)] if len(self.skipped) < _LISTED else []
            return
        self.first = self.first or problem
        self.alike += problem.kind == self.first.kind
        if self.at_once:
            self.close()

    def close(self) -> None:
        """Raise what was found, once all rows are known."""
        if self.first:
            alike = f" ({self.alike:,} such rows, {self.alike / self.rows:.0%})" if self.alike > 1 else ""
            end = "" if not alike and str(self.first).endswith((".", "?")) else "."
            raise DataError(f"{self.first}{alike}{end} To leave bad rows out: --skip_bad_rows true")
        if self.rows == 0:
            raise DataError(f"{self.label} holds 0 records. Give data with at least one row")
        if self.rows == self.count:
            raise DataError(f"{self.label} holds 0 usable records: all {self.rows:,} rows are bad. {self.skipped[0]}")

    def notes(self) -> list[str]:
        """One line that counts the skipped rows and lists the first."""
        if not self.count:
            return []
        more = "; ..." if self.count > len(self.skipped) else ""
        return [f"{self.label}: {self.count:,} of {self.rows:,} rows skipped: {'; '.join(self.skipped)}{more}"]
