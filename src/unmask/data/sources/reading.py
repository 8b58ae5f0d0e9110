"""Rows -> a table or a stream of records; bad rows stop it with a count of their like, or are skipped and counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from textwrap import shorten
from typing import Any

from datasets import Dataset, Features, List, Value

from unmask.data.records import Want, read_record
from unmask.data.rows import BadRow, Row
from unmask.data.scratch import TableWriter
from unmask.data.token_rows import TOKEN_COLUMNS, token_reader
from unmask.errors import DataError

_LOG = logging.getLogger(__name__)
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


def holds_tokens(columns: Iterable[str], reading: Reading) -> bool:
    """Whether rows with these columns are rows of tokens rather than what `reading` wants."""
    names = set(columns)
    readable = {
        "text": {reading.text_field},
        "conversation": {"messages", "conversations", "output", "assistant", "attempt", "answer"},
    }
    return "input_ids" in names and (reading.preprocessed or not readable[reading.want] & names)


def records_table(rows: Iterable[Row | BadRow], label: str, reading: Reading) -> tuple[Dataset, list[str]]:
    """All records as a table with the columns `text` or `messages`, and `where`; notes about skipped rows.

    Raises:
        DataError: a bad row, after the others were counted, or no usable row.
    """
    writer = TableWriter(_FEATURES[reading.want])
    tally = _Tally(label, reading.skip_bad_rows)
    for record in _records(rows, _reader(reading, False), tally):
        writer.write(record, len(record.get("text", "")))
    table = writer.finish()
    tally.close()
    return table, tally.notes()


def read_all(
    rows: Iterable[Row | BadRow], label: str, read: Callable[[Row], dict[str, Any]], *, skip_bad_rows: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """What `read` makes of all rows, which raises `BadRow` for a bad one; notes about skipped rows.

    Raises:
        DataError: as `records_table`.
    """
    tally = _Tally(label, skip_bad_rows)
    records = list(_records(rows, read, tally))
    tally.close()
    return records, tally.notes()


def tokens_table(rows: Iterable[Row | BadRow], label: str, reading: Reading) -> tuple[Dataset, list[str]]:
    """Rows of tokens as a table: `input_ids`, the columns beside it that say what is learned, and `where`.

    Raises:
        DataError: as `records_table`.
    """
    tally = _Tally(label, reading.skip_bad_rows)
    records = _records(rows, token_reader(), tally)
    first = next(records, None)
    writer = TableWriter(_token_features(first or {}))
    for record in chain([first] if first else [], records):
        writer.write({name: record.get(name) for name in writer.features}, 8 * len(record["input_ids"]))
    table = writer.finish()
    tally.close()
    return table, tally.notes()


def arrays_table(columns: Iterator[dict[str, Any]], label: str) -> Dataset:
    """Columns of tokens as a table.

    Raises:
        DataError: there are none, or those of two files differ.
    """
    first = next(columns, None)
    if first is None:
        raise DataError(f"{label} holds 0 records. Give data with at least one row")
    features = Features({name: TOKEN_COLUMNS[name] for name in first})
    writer = TableWriter(features)
    for some in chain([first], columns):
        if list(some) != list(features):
            raise DataError(f"{label}: one file has {', '.join(features)}, another one {', '.join(some)}")
        writer.write_columns(list(some.values()))
    return writer.finish()


def _token_features(record: dict[str, Any]) -> Features:
    """Rows are to have the columns of the first one."""
    named = {name: kind for name, kind in TOKEN_COLUMNS.items() if name in record}
    return Features({"input_ids": TOKEN_COLUMNS["input_ids"], **named, "where": Value("string")})


def records_stream(
    rows: Iterable[Row | BadRow], label: str, reading: Reading, tokenised: bool = False
) -> Iterator[dict[str, Any]]:
    """The records one by one; how many were skipped is logged at the end.

    Raises:
        DataError: a bad row, as soon as it comes, or no usable row.
    """
    tally = _Tally(label, reading.skip_bad_rows, at_once=True)
    yield from _records(rows, _reader(reading, tokenised), tally)
    tally.close()
    for note in tally.notes():
        _LOG.warning("%s", note)


def first_records(
    rows: Iterable[Row | BadRow], label: str, reading: Reading, count: int, tokenised: bool = False
) -> Dataset:
    """The first records of a stream as a table."""
    records = islice(records_stream(rows, label, reading, tokenised), count)
    first = next(records, None)
    writer = TableWriter(_token_features(first or {}) if tokenised else _FEATURES[reading.want])
    for record in chain([first] if first else [], records):
        writer.write({name: record.get(name) for name in writer.features})
    table = writer.finish()
    if not len(table):
        raise DataError(f"{label}: test:{count} leaves no row for the test part")
    return table


def _reader(reading: Reading, tokenised: bool) -> Callable[[Row], dict[str, Any]]:
    return token_reader() if tokenised else lambda row: read_record(row, reading.want, reading.text_field)


def _records(
    rows: Iterable[Row | BadRow], read: Callable[[Row], dict[str, Any]], tally: _Tally
) -> Iterator[dict[str, Any]]:
    for row in rows:
        tally.rows += 1
        try:
            if isinstance(row, BadRow):
                raise row
            record = read(row)
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
