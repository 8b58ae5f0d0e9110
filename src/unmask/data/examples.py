"""Rows of our own generator by name, for `example:text` and `example:tables`: something to train on without a file.

Rows are a function of kind, name, seed and split; the splits share no table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from unmask.data.table_questions import MessageOptions, message_records
from unmask.data.tables import Split, TableOptions, fact_records, text_records

EXAMPLE_KINDS = ("text", "tables")
# The part of plain texts that tell facts which hold in every table.
_FACTS = 8


@dataclass(frozen=True)
class _Level:
    """How large the tables of a name are, and what is asked about them."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    questions: MessageOptions = MessageOptions()


_TEXTS = {
    "": _Level((1, 4), (1, 3)),
    "easy": _Level((1, 2), (1, 2)),
    "hard": _Level((4, 10), (2, 4)),
}
_TABLES = {
    "": _Level((2, 6), (2, 4)),
    "easy": _Level((1, 3), (1, 2)),
    "hard": _Level((6, 12), (3, 4)),
    "look-up": _Level((2, 4), (1, 3), MessageOptions(kinds=("look-up",))),
}
EXAMPLE_NAMES: dict[str, tuple[str, ...]] = {"text": tuple(_TEXTS), "tables": tuple(_TABLES)}


def example_rows(kind: str, *, name: str, count: int, seed: int, split: Split) -> Iterator[dict[str, Any]]:
    """`count` generated rows.

    Args:
        kind: `text`: paragraphs about invented tables, every second below its table, and a few facts. `tables`:
            `messages` with one question about a table and its answer.
        name: the level, out of `EXAMPLE_NAMES[kind]`; "" is the usual one.
        count: rows.
        seed: other seeds, other rows.
        split: `train` or `test`; they share no table.
    """
    level = (_TEXTS if kind == "text" else _TABLES)[name]
    options = TableOptions(seed=seed, rows=level.rows, columns=level.columns)
    if kind == "tables":
        return message_records(options, count, split=split, questions=level.questions)
    tables = text_records(options, count, split=split, share_with_table=0.5)
    # train and test take facts from different ends of the numbers
    facts = fact_records(count, seed=2 * seed + (split == "test"))
    drawn = Random(f"example/{seed}/{split}")
    return (next(facts if drawn.randrange(_FACTS) == 0 else tables) for _ in range(count))
