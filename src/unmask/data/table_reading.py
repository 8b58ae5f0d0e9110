"""Tables with what they say told again below them: what a small model learns to read tables from.

A value is told by the table alone, so predicting it is looking it up, as long as the other values are hidden with it:
where all but one are shown, the one that is missing can be told without reading. `Reading` says where they stand.
Statements are no questions: a model that was trained on these has never seen how one is asked. Knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from unmask.data.table_queries import Kind, Query, answer, column_of, draw_query
from unmask.data.table_questions import condition, degrees, plural
from unmask.data.table_text import Style, serialise_rows
from unmask.data.table_topics import words
from unmask.data.tables import Cell, Split, Table, TableOptions, tables_again

What = Literal["word", "key", "value"]
Span = tuple[int, int]
_BEGINNINGS = words("b c ch d dr f g gr h j k kl l m n p pr qu r s sh st t th tr v w y z")
_ENDINGS = words("a an ar e el en er es i il in is o on or os u un us ai ea ie ou y")
REASONED: tuple[Kind, ...] = ("comparison", "superlative", "count", "filter", "difference", "sum")


@dataclass(frozen=True)
class Piece:
    """Some characters, and what they are: a key or a value of the table, or words between."""

    text: str
    what: What = "word"


@dataclass(frozen=True)
class Reading:
    """A table, and what is said of it.

    Attributes:
        given: the table, with a line break behind it.
        pieces: statements, each true of the table.
    """

    given: str
    pieces: tuple[Piece, ...]

    @property
    def said(self) -> str:
        """The statements as one text."""
        return "".join(piece.text for piece in self.pieces)

    def spans(self, what: What) -> list[Span]:
        """Where in `said` they stand: first character, and the one behind the last."""
        found: list[Span] = []
        start = 0
        for piece in self.pieces:
            end = start + len(piece.text)
            if piece.what == what:
                found.append((start, end))
            start = end
        return found


def readings(
    options: TableOptions,
    *,
    wordings: int = 2,
    reasoned: float = 0.0,
    foreign: float = 0.0,
    split: Split = "train",
) -> Iterator[Reading]:
    """Readings without end. Small tables come up more than once, each time with other statements.

    Args:
        options: how tables are drawn.
        wordings: of each fact, at most.
        reasoned: share of the readings that tell what follows from several cells: which is the oldest, how many live
            in Oslo, the sum of a column.
        foreign: share of the readings whose words and numbers are made up, each anew: there is nothing to know of
            them but what the table says. Nothing follows from several of their cells.
        split: train or test; they share no table.
    """
    for number, table in enumerate(tables_again(options, split=split)):
        random = Random(f"reading/{options.seed}/{number}")
        style: Style = "tagged" if random.random() < 0.2 else "markdown"
        is_foreign = random.random() < foreign
        if is_foreign:
            table = _with_made_up_words(table, random)
        pieces = list(_reasoned(table, random)) if not is_foreign and random.random() < reasoned else []
        if not pieces:
            pieces = list(_rows_again(table, random) if random.random() < 0.3 else _cells(table, wordings, random))
        yield Reading(f"{serialise_rows(table.header, table.rows, style)}\n", tuple(pieces))


def statement(table: Table, kind: Kind, random: Random) -> tuple[Piece, ...]:
    """One statement that answers a query of that kind, in any wording; empty where the table allows none."""
    query = draw_query(table, kind, random)
    if query is None:
        return ()
    if kind == "look-up":
        says = random.choice(column_of(table, query).says)
        return tuple(_cell(table, query.keys[0], says, answer(table, query)))
    return tuple(_STATEMENTS[kind](table, query, random))


def _with_made_up_words(table: Table, random: Random) -> Table:
    made_up: dict[Cell, Cell] = {}
    largest = 10 ** random.randint(2, 5)

    def other(cell: Cell) -> Cell:
        if cell not in made_up:
            made_up[cell] = random.randrange(largest) if isinstance(cell, int) else _made_up(random)
        return made_up[cell]

    return replace(table, rows=tuple(tuple(other(cell) for cell in row) for row in table.rows))


def _made_up(random: Random) -> str:
    """One or two words that are none: "Tovu", "Kel Mora"."""
    syllables = [random.choice(_BEGINNINGS) + random.choice(_ENDINGS) for _ in range(random.randint(1, 3))]
    word = "".join(syllables)
    second = random.choice(("", "", "", f" {random.choice(_BEGINNINGS)}{random.choice(_ENDINGS)}"))
    return f"{word}{second}".title() if random.random() < 0.7 else word


def _rows_again(table: Table, random: Random) -> Iterator[Piece]:
    """The rows in another order: every cell stands two columns behind its key, above and below."""
    for row in random.sample(table.rows, len(table.rows)):
        yield Piece("|")
        for number, cell in enumerate(row):
            yield Piece(f" {cell}", "value" if number else "key")
            yield Piece(" |")
        yield Piece("\n")


def _cells(table: Table, wordings: int, random: Random) -> Iterator[Piece]:
    """Some of the cells in words, in any order."""
    facts = [(row, column, value) for row in table.rows for column, value in zip(table.columns, row[1:], strict=True)]
    for row, column, value in random.sample(facts, random.randint(1, len(facts))):
        yield from _cell(table, str(row[0]), random.choice(column.says[:wordings]), value)


def _cell(table: Table, key: str, says: str, value: Cell) -> Iterator[Piece]:
    before, _, after = says.partition("{value}")
    # the space before a word belongs to it, as in a cell
    yield from _stated(table, key, f" {before.rstrip()}")
    yield Piece(f" {value}", "value")
    yield Piece(f"{after}.")


def _stated(table: Table, key: str, rest: str) -> Iterator[Piece]:
    """The beginning of a sentence about a key."""
    article = table.topic.article.strip()
    if article:
        yield Piece(f" {article.capitalize()}")
    yield Piece(f" {key if article else _capital(key)}", "key")
    yield Piece(rest)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _reasoned(table: Table, random: Random) -> Iterator[Piece]:
    """Up to three statements that no single cell tells."""
    for kind in random.sample(REASONED, 3):
        yield from statement(table, kind, random)


def _names(keys: Iterable[str], between: str, article: str) -> Iterator[Piece]:
    for number, key in enumerate(keys):
        yield Piece((between if number else "") + (f" {article}" if article else ""))
        yield Piece(f" {key}", "key")


def _compared(table: Table, query: Query, random: Random) -> Iterator[Piece]:
    article = table.topic.article.strip()
    yield Piece(random.choice((" Of", " Between")))
    yield from _names(query.keys, " and", article)
    yield Piece(f", {article}" if article else ",")
    yield Piece(f" {answer(table, query)}", "value")
    yield Piece(f" {degrees(column_of(table, query), query)[0]}.")


def _superlative(table: Table, query: Query, random: Random) -> Iterator[Piece]:
    article = table.topic.article.strip()
    most = degrees(column_of(table, query), query)[1]
    if random.random() < 0.5:
        yield Piece(f" The {table.topic.thing} that {most} is" + (f" {article}" if article else ""))
        yield Piece(f" {answer(table, query)}", "value")
        yield Piece(".")
        return
    for piece in _stated(table, answer(table, query), f" {most}."):
        yield Piece(piece.text, "value") if piece.what == "key" else piece


def _counted(table: Table, query: Query, random: Random) -> Iterator[Piece]:
    counted = plural(condition(column_of(table, query), query, random))
    yield Piece(f" The number of {table.topic.things} that {counted} is")
    yield Piece(f" {answer(table, query)}", "value")
    yield Piece(".")


def _filtered(table: Table, query: Query, random: Random) -> Iterator[Piece]:
    yield Piece(f" All {table.topic.things} that {plural(condition(column_of(table, query), query, random))}:")
    for number, key in enumerate(answer(table, query).split(", ")):
        yield Piece("," if number else "")
        yield Piece(f" {key}", "value")
    yield Piece(".")


def _apart(table: Table, query: Query, random: Random) -> Iterator[Piece]:
    column: Any = column_of(table, query)
    yield Piece(random.choice((f" In {column.name},", f" By {column.name},")))
    yield from _names(query.keys, " and", table.topic.article.strip())
    yield Piece(" are")
    yield Piece(f" {answer(table, query)}", "value")
    yield Piece(f" {column.unit} apart.")


def _summed(table: Table, query: Query, random: Random) -> Iterator[Piece]:
    yield Piece(random.choice((f" The column {query.column} adds up to", f" Together the {query.column} makes")))
    yield Piece(f" {answer(table, query)}", "value")
    yield Piece(".")


_STATEMENTS = {
    "comparison": _compared,
    "superlative": _superlative,
    "count": _counted,
    "filter": _filtered,
    "difference": _apart,
    "sum": _summed,
}
