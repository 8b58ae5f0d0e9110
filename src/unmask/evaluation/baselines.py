"""Answers that need no model, to compare a model's with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unmask.data.table_text import WrittenTable, read_table

Record = Mapping[str, Any]


def majority(records: Sequence[Record]) -> list[str]:
    """To every question of a kind its most frequent right answer: the best that can be said without reading."""
    golds: dict[str, Counter[str]] = {}
    for record in records:
        golds.setdefault(record.get("kind", ""), Counter())[record["messages"][-1]["content"]] += 1
    best = {kind: counts.most_common(1)[0][0] for kind, counts in golds.items()}
    return [best[record.get("kind", "")] for record in records]


def copy(records: Sequence[Record]) -> list[str]:
    """The cell where the row and the column cross whose words the question repeats most, the first of equals."""
    return [_copied(str(record["messages"][-2]["content"])) for record in records]


def _copied(asked: str) -> str:
    table = read_table(asked)
    if table is None or not table.rows:
        return ""
    said = Counter(_words(table.after))
    row = max(table.rows, key=lambda cells: _overlap(" ".join(cells), said))
    return row[_column(table, row, said)] if row else ""


def _column(table: WrittenTable, row: Sequence[str], said: Counter[str]) -> int:
    """Of the columns that the question does not already give the cell of, the one it names; else the last."""
    open_ = [place for place, cell in enumerate(row) if not set(_words(cell)) <= set(said)] or [len(row) - 1]
    return max(open_, key=lambda place: _overlap(" ".join(table.header[place : place + 1]), said))


def _overlap(text: str, said: Counter[str]) -> int:
    return sum(said[word] for word in set(_words(text)))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


BASELINES: dict[str, Callable[[Sequence[Record]], list[str]]] = {"majority": majority, "copy": copy}
