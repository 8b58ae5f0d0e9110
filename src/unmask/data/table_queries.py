"""What can be asked about a table, without words, and the answers: small enough to be checked by any database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, get_args

from unmask.data.table_topics import Category, Quantity
from unmask.data.tables import Cell, Table

Kind = Literal["look-up", "comparison", "count", "superlative", "sum", "difference", "filter", "verification"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Relation = Literal["=", ">", "<"]


@dataclass(frozen=True)
class Query:
    """What is asked, without words.

    Attributes:
        kind: look-up: the cell of `keys[0]`. comparison: which of the two `keys` has more (`relation` >) or less.
            count, filter: rows whose cell stands in `relation` to `value`. superlative: the row with the most (>)
            or the least (<). sum: of the whole column. difference: between the cells of the two `keys`.
            verification: whether the answer to `claim` is `claimed`.
        column: header.
    """

    kind: Kind
    column: str
    keys: tuple[str, ...] = ()
    relation: Relation = "="
    value: Cell | None = None
    claim: Query | None = None
    claimed: str = ""


def answer(table: Table, query: Query) -> str:
    """The answer: a cell, a number, keys joined by ", " in the order of the table, or yes / no."""
    if query.kind == "verification":
        assert query.claim is not None
        return "yes" if answer(table, query.claim) == query.claimed else "no"
    column = column_of(table, query)
    cells = dict(zip(table.keys, table.cells(column), strict=True))
    matching = [key for key, cell in cells.items() if _holds(cell, query)]
    sign = -1 if query.relation == "<" else 1
    answers: dict[str, Callable[[], Any]] = {
        "look-up": lambda: cells[query.keys[0]],
        "comparison": lambda: max(query.keys, key=lambda key: sign * int(cells[key])),
        "superlative": lambda: max(cells, key=lambda key: sign * int(cells[key])),
        "count": lambda: len(matching),
        "filter": lambda: ", ".join(matching),
        "sum": lambda: sum(int(cell) for cell in cells.values()),
        "difference": lambda: abs(int(cells[query.keys[0]]) - int(cells[query.keys[1]])),
    }
    return str(answers[query.kind]())


def draw_query(table: Table, kind: Kind, random: Random) -> Query | None:
    """A query of that kind, or None where the table allows none.

    Columns whose words are the same in every table are not asked about: a model could answer without reading.
    """
    return _DRAWS[kind](table, random)


def column_of(table: Table, query: Query) -> Category | Quantity:
    """The column that a query is about."""
    return next(column for column in table.columns if column.name == query.column)


def _holds(cell: Cell, query: Query) -> bool:
    if query.value is None:
        return False
    if query.relation == "=":
        return cell == query.value
    above = int(cell) - int(query.value)
    return above > 0 if query.relation == ">" else above < 0


def _categories(table: Table) -> list[Category]:
    return [column for column in table.columns if isinstance(column, Category) and not column.by_key]


def _quantities(table: Table) -> list[Quantity]:
    return [column for column in table.columns if isinstance(column, Quantity)]


def _look_up(table: Table, random: Random) -> Query | None:
    columns = [*_categories(table), *_quantities(table)]
    if not columns:
        return None
    return Query("look-up", random.choice(columns).name, (random.choice(table.keys),))


def _of_two(kind: Kind) -> Callable[[Table, Random], Query | None]:
    def draw(table: Table, random: Random) -> Query | None:
        columns = _quantities(table)
        if len(table.rows) < 2 or not columns:
            return None
        relation: Relation = ">" if kind == "difference" else random.choice((">", "<"))
        return Query(kind, random.choice(columns).name, tuple(random.sample(table.keys, 2)), relation)

    return draw


def _superlative(table: Table, random: Random) -> Query | None:
    columns = _quantities(table)
    if len(table.rows) < 2 or not columns:
        return None
    return Query("superlative", random.choice(columns).name, relation=random.choice((">", "<")))


def _sum(table: Table, random: Random) -> Query | None:
    columns = _quantities(table)
    return Query("sum", random.choice(columns).name) if len(table.rows) > 1 and columns else None


def _matching(kind: Kind) -> Callable[[Table, Random], Query | None]:
    def draw(table: Table, random: Random) -> Query | None:
        columns = [*_categories(table), *_quantities(table)]
        if len(table.rows) < 2 or not columns:
            return None
        column = random.choice(columns)
        cells = table.cells(column)
        if isinstance(column, Category):
            return Query(kind, column.name, value=random.choice(cells))
        # The bound is a cell other than the outermost, so that something lies beyond it.
        order = sorted(int(cell) for cell in cells)
        relation: Relation = random.choice((">", "<"))
        return Query(kind, column.name, (), relation, random.choice(order[:-1] if relation == ">" else order[1:]))

    return draw


def _verification(table: Table, random: Random) -> Query | None:
    kind: Kind = random.choice(("look-up", "comparison", "superlative", "count"))
    claim = draw_query(table, kind, random)
    if claim is None:
        return None
    right = answer(table, claim)
    claimed = right if random.random() < 0.5 else _wrong(table, claim, right, random)
    return None if claimed is None else Query("verification", claim.column, claim=claim, claimed=claimed)


def _wrong(table: Table, claim: Query, right: str, random: Random) -> str | None:
    """A plausible answer that is not right: another key, another value, a count next to the true one."""
    column = column_of(table, claim)
    if claim.kind == "count":
        return str(max(0, int(right) + random.choice((-1, 1)))) if int(right) else "1"
    pool = list(claim.keys if claim.kind == "comparison" else table.keys)
    if claim.kind == "look-up":
        pool = [str(cell) for cell in table.cells(column)]
        pool += [str(value) for value in column.values] if isinstance(column, Category) else [str(int(right) + 1)]
    others = [candidate for candidate in dict.fromkeys(pool) if candidate != right]
    return random.choice(others) if others else None


_DRAWS: dict[Kind, Callable[[Table, Random], Query | None]] = {
    "look-up": _look_up,
    "comparison": _of_two("comparison"),
    "count": _matching("count"),
    "superlative": _superlative,
    "sum": _sum,
    "difference": _of_two("difference"),
    "filter": _matching("filter"),
    "verification": _verification,
}
