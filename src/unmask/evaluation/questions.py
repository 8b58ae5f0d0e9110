"""The dataset text -> conversations to be answered, with what their rows say beside the messages.

Reads any dataset that fine-tuning reads, and takes the same rows for its test part.
"""

from __future__ import annotations

from typing import Any

from unmask.data.rows import Row
from unmask.data.sources import Opened, open_dataset, read
from unmask.data.sources.reading import Reading
from unmask.data.spec import parse_dataset_args
from unmask.errors import ConfigError, DataError

# what scoring and counting want to know, and what it must be
_BESIDE = ("id", "kind", "source", "question", "table_id", "scale")
_LISTS = ("answers", "canonical")
_COUNTS = ("rows_left_out",)


def load_questions(
    dataset_args: str, limit: int | None = None, *, skip_bad_rows: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """The conversations of all datasets in `dataset_args`, and notes.

    Of a dataset with a test part, its own or one that the text asks for, these are the rows of that part; otherwise
    all rows.

    Args:
        dataset_args: in the dataset grammar, for example `questions.jsonl[test:200]`.
        limit: take the first so many only.
        skip_bad_rows: leave them out and count them in the notes.

    Raises:
        ConfigError: the text is no dataset, or `limit` is below 1.
        DataError: nothing there, a bad row that is not to be skipped, no conversations.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; it must be at least 1.")
    questions: list[dict[str, Any]] = []
    notes: list[str] = []
    for spec in parse_dataset_args(dataset_args):
        opened = open_dataset(spec)
        records = read(opened, Reading("conversation", skip_bad_rows=skip_bad_rows))
        asked: Any = records.test if opened.is_evaluated() else records.train
        if "messages" not in asked.column_names:
            raise DataError(f"{spec.path} holds tokens, no text that a question could be read from.")
        beside = _beside(opened)
        found = [(row["where"], {**beside.get(row["where"], {}), "messages": row["messages"]}) for row in asked]
        untagged = {where: told for where, row in found if (told := _untagged(row))}
        if untagged and not skip_bad_rows:
            where, told = next(iter(untagged.items()))
            raise DataError(f"{where}: {told}. Correct the row, or leave such rows out with --skip_bad_rows true.")
        questions += [row for where, row in found if where not in untagged]
        notes += records.notes
        notes += [f"{spec.path}: {len(untagged):,} rows left out: {told}" for told in list(untagged.values())[:1]]
    if not questions:
        raise DataError(f"{dataset_args}: no row is left to be asked.")
    return questions[:limit], notes


def _untagged(row: dict[str, Any]) -> str:
    """What is wrong with the tagged forms of its answers; empty where nothing is."""
    answers, canonical = row.get("answers", []), row.get("canonical")
    if canonical is None or len(canonical) == len(answers):
        return ""
    return f"canonical has {len(canonical)} texts and answers {len(answers)}; they go in pairs"


def load_texts(
    dataset_args: str, text_field: str = "text", limit: int | None = None, *, skip_bad_rows: bool = False
) -> tuple[list[str], list[str]]:
    """The texts of all datasets in `dataset_args`, and notes; which rows these are, see `load_questions`.

    Raises:
        ConfigError: the text is no dataset, or `limit` is below 1.
        DataError: nothing there, a bad row that is not to be skipped, no texts.
    """
    rows, notes = _scored(dataset_args, Reading("text", text_field, skip_bad_rows), limit)
    return [row["text"] for row in rows], notes


def load_conversations(
    dataset_args: str, limit: int | None = None, *, skip_bad_rows: bool = False
) -> tuple[list[Row], list[str]]:
    """The conversations of all datasets as rows with `messages`, which know their places; otherwise as `load_texts`."""
    rows, notes = _scored(dataset_args, Reading("conversation", skip_bad_rows=skip_bad_rows), limit)
    return [Row(row["where"], {"messages": row["messages"]}) for row in rows], notes


def _scored(dataset_args: str, reading: Reading, limit: int | None) -> tuple[list[dict[str, Any]], list[str]]:
    """What is to be scored, and notes."""
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; it must be at least 1.")
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for spec in parse_dataset_args(dataset_args):
        opened = open_dataset(spec)
        records = read(opened, reading)
        chosen: Any = records.test if opened.is_evaluated() else records.train
        if not {"text", "messages"} & set(chosen.column_names):
            raise DataError(f"{spec.path} holds tokens, no texts that bytes could be counted of.")
        rows += chosen
        notes += records.notes
    return rows[:limit], notes


def _beside(opened: Opened) -> dict[str, dict[str, Any]]:
    """Place of a row -> its fields of known names."""
    parts = [part for part in (opened.train, opened.test) if part is not None]
    rows = (row for part in parts for row in part.rows() if isinstance(row, Row))
    return {row.where: _known(row.fields) for row in rows}


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    texts = {name: str(fields[name]) for name in _BESIDE if isinstance(fields.get(name), str | int)}
    lists = {name: fields[name] for name in _LISTS if _is_texts(fields.get(name))}
    counts = {name: fields[name] for name in _COUNTS if isinstance(fields.get(name), int)}
    return texts | lists | counts


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
