"""Questions about invented tables, with their answers.

A question is a `Query`, small enough to be checked by any database, and one of several wordings of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, get_args

from unmask.data.table_topics import Category, Quantity
from unmask.data.tables import Cell, Split, Style, Table, TableOptions, make_tables, serialise
from unmask.errors import ConfigError, did_you_mean

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


@dataclass(frozen=True)
class Question:
    """A query in words, and its answer."""

    query: Query
    text: str
    answer: str

    @property
    def kind(self) -> Kind:
        """The query's."""
        return self.query.kind


@dataclass(frozen=True)
class MessageOptions:
    """How questions become conversations.

    Attributes:
        kinds: of questions.
        per_table: questions about each table, at most.
        style: of the table.
    """

    kinds: tuple[Kind, ...] = KINDS
    per_table: int = 4
    style: Style = "markdown"

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(
                    f'no kind of question "{kind}"; kinds: {", ".join(KINDS)}.{did_you_mean(kind, KINDS)}'
                )


def answer(table: Table, query: Query) -> str:
    """The answer: a cell, a number, keys joined by ", " in the order of the table, or yes / no."""
    if query.kind == "verification":
        assert query.claim is not None
        return "yes" if answer(table, query.claim) == query.claimed else "no"
    column = _column(table, query)
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


def ask(table: Table, kind: Kind, random: Random) -> Question | None:
    """A question of that kind, or None where the table allows none.

    Columns whose words are the same in every table are not asked about: a model could answer without reading.
    """
    query = _QUERIES[kind](table, random)
    return None if query is None else Question(query, _word(table, query, random), answer(table, query))


def ask_some(table: Table, options: MessageOptions, random: Random) -> list[Question]:
    """Different questions about a table, kinds in random order, at most `options.per_table`."""
    questions: dict[Query, Question] = {}
    kinds: list[Kind] = list(options.kinds) * max(1, -(-options.per_table // max(1, len(options.kinds))))
    random.shuffle(kinds)
    for kind in kinds[: 3 * options.per_table]:
        question = ask(table, kind, random)
        if question is not None and len(questions) < options.per_table:
            questions.setdefault(question.query, question)
    return list(questions.values())


def message_records(
    options: TableOptions, count: int, *, split: Split = "train", questions: MessageOptions | None = None
) -> Iterator[dict[str, Any]]:
    """`count` conversations of one question and its answer, with `kind`, `source` and `table_id` beside `messages`.

    Records of one table stand together; shuffle them where that matters.
    """
    asked = questions or MessageOptions()
    left = count
    for table in make_tables(options, split=split):
        random = Random(f"questions/{options.seed}/{table.digest}")
        for question in ask_some(table, asked, random)[:left]:
            left -= 1
            yield {
                "source": "unmask tables",
                "table_id": table.digest,
                "kind": question.kind,
                "messages": [
                    {"role": "user", "content": f"{serialise(table, asked.style)}\n\n{question.text}"},
                    {"role": "assistant", "content": question.answer},
                ],
            }
        if not left:
            return


def _column(table: Table, query: Query) -> Category | Quantity:
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
    claim = _QUERIES[kind](table, random)
    if claim is None:
        return None
    right = answer(table, claim)
    claimed = right if random.random() < 0.5 else _wrong(table, claim, right, random)
    return None if claimed is None else Query("verification", claim.column, claim=claim, claimed=claimed)


def _wrong(table: Table, claim: Query, right: str, random: Random) -> str | None:
    """A plausible answer that is not right: another key, another value, a count next to the true one."""
    column = _column(table, claim)
    if claim.kind == "count":
        return str(max(0, int(right) + random.choice((-1, 1)))) if int(right) else "1"
    pool = list(claim.keys if claim.kind == "comparison" else table.keys)
    if claim.kind == "look-up":
        pool = [str(cell) for cell in table.cells(column)]
        pool += [str(value) for value in column.values] if isinstance(column, Category) else [str(int(right) + 1)]
    others = [candidate for candidate in dict.fromkeys(pool) if candidate != right]
    return random.choice(others) if others else None


_QUERIES: dict[Kind, Callable[[Table, Random], Query | None]] = {
    "look-up": _look_up,
    "comparison": _of_two("comparison"),
    "count": _matching("count"),
    "superlative": _superlative,
    "sum": _sum,
    "difference": _of_two("difference"),
    "filter": _matching("filter"),
    "verification": _verification,
}


def _plural(predicate: str) -> str:
    verb, _, rest = predicate.partition(" ")
    irregular = {"is": "are", "has": "have", "goes": "go"}
    return f"{irregular.get(verb, verb.removesuffix('s'))} {rest}"


def _condition(column: Category | Quantity, query: Query, random: Random) -> str:
    """The predicate that `count` and `filter` ask for: "lives in Oslo", "is older than 40 years"."""
    if isinstance(column, Category):
        return random.choice(column.says).format(value=query.value)
    return (column.over if query.relation == ">" else column.under).format(value=query.value)


def _degrees(column: Category | Quantity, query: Query) -> tuple[str, str]:
    """ "is older" and "is the oldest", or the opposites; nothing for words."""
    if isinstance(column, Category):
        return "", ""
    return (column.less, column.least) if query.relation == "<" else (column.more, column.most)


def _word(table: Table, query: Query, random: Random) -> str:
    if query.kind == "verification":
        assert query.claim is not None
        return random.choice(
            ("Is it true that {}?", "Is this right: {}?", "True or not: {}?", "Does the table say that {}?")
        ).format(_claim(table, query.claim, query.claimed, random))
    column: Any = _column(table, query)
    topic, keys = table.topic, [table.called(key) for key in query.keys]
    if query.kind == "look-up":
        return random.choice(column.asks).format(key=keys[0])
    if query.kind in ("count", "filter"):
        condition = _condition(column, query, random)
        wordings = {
            "count": (f"How many {topic.things} {_plural(condition)}?", f"Count every {topic.thing} that {condition}."),
            "filter": (f"Which {topic.things} {_plural(condition)}?", f"Name every {topic.thing} that {condition}."),
        }
        return random.choice(wordings[query.kind])
    compared, extreme = _degrees(column, query)
    pair = " and ".join(keys)
    asked = {
        "comparison": (f"Which {topic.thing} {compared}, {' or '.join(keys)}?", f"Of {pair}, which {compared}?"),
        "superlative": (f"Which {topic.thing} {extreme}?", f"Name the {topic.thing} that {extreme}."),
        "sum": (f"What is the total {column.name} of all {topic.things}?", f"Add up the column {column.name}."),
        "difference": (
            f"What is the difference in {column.name} between {pair}?",
            f"How many {column.unit} lie between {pair} in {column.name}?",
        ),
    }
    return random.choice(asked[query.kind])


def _claim(table: Table, claim: Query, claimed: str, random: Random) -> str:
    """The statement that `claimed` answers `claim`, without capital and full stop."""
    column: Any = _column(table, claim)
    compared, extreme = _degrees(column, claim)
    match claim.kind:
        case "look-up":
            return f"{table.called(claim.keys[0])} {random.choice(column.says).format(value=claimed)}"
        case "count":
            condition = _condition(column, claim, random)
            return f"the number of {table.topic.things} that {_plural(condition)} is {claimed}"
        case "comparison":
            other = claim.keys[1] if claimed == claim.keys[0] else claim.keys[0]
            return f"{table.called(claimed)} {compared} than {table.called(other)}"
    return f"{table.called(claimed)} {extreme}"
