"""Tables with the same facts said again below them: what a small model learns to read tables from.

A value is told by the table alone, so predicting it is looking it up. Statements are no questions: a model that was
trained on these has never seen how one is asked. Knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from unmask.data.table_text import Style, serialise_rows
from unmask.data.tables import Split, Table, TableOptions, extremes, sentence, tables_again


@dataclass(frozen=True)
class Reading:
    """A table, and what is said of it.

    Attributes:
        given: the table, with a line break behind it.
        said: statements, each true of the table.
    """

    given: str
    said: str


def readings(options: TableOptions, *, wordings: int = 2, split: Split = "train") -> Iterator[Reading]:
    """Readings without end. Small tables come up more than once, each time with other statements.

    Args:
        options: how tables are drawn.
        wordings: of each fact, at most.
        split: train or test; they share no table.
    """
    for number, table in enumerate(tables_again(options, split=split)):
        random = Random(f"reading/{options.seed}/{number}")
        style: Style = "tagged" if random.random() < 0.2 else "markdown"
        said = _rows_again(table, random) if random.random() < 0.3 else _sentences(table, wordings, random)
        yield Reading(f"{serialise_rows(table.header, table.rows, style)}\n", said)


def _rows_again(table: Table, random: Random) -> str:
    """The rows in another order: every cell stands two columns behind its key, above and below."""
    rows = serialise_rows(table.header, random.sample(table.rows, len(table.rows)))
    return rows.split("\n", 2)[2] + "\n"


def _sentences(table: Table, wordings: int, random: Random) -> str:
    """Some of the cells in words, in any order, sometimes with what stands out."""
    said = [
        sentence(f"{table.called(str(row[0]))} {random.choice(column.says[:wordings]).format(value=value)}")
        for row in table.rows
        for column, value in zip(table.columns, row[1:], strict=True)
    ]
    chosen = random.sample(said, random.randint(1, len(said)))
    return " " + " ".join(chosen + extremes(table, random))
