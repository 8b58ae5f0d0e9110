"""Questions about invented tables, with their answers: queries in one of several wordings each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from unmask.data.table_queries import KINDS, Kind, Query, answer, column_of, draw_query
from unmask.data.table_topics import Category, Quantity
from unmask.data.tables import Split, Style, Table, TableOptions, make_tables, serialise
from unmask.errors import ConfigError, did_you_mean


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
        turns: questions of a conversation, at most; the table stands before the first one alone, so that it is read
            once for all of them.
        style: of the table.
    """

    kinds: tuple[Kind, ...] = KINDS
    per_table: int = 4
    turns: int = 1
    style: Style = "markdown"

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise ConfigError(f"turns is {self.turns}; a conversation has at least 1 question.")
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(
                    f'no kind of question "{kind}"; kinds: {", ".join(KINDS)}.{did_you_mean(kind, KINDS)}'
                )


def ask(table: Table, kind: Kind, random: Random) -> Question | None:
    """A question of that kind, or None where the table allows none.

    Columns whose words are the same in every table are not asked about: a model could answer without reading.
    """
    query = draw_query(table, kind, random)
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
    """Conversations of `count` questions and their answers, with `kind`, `source` and `table_id` beside `messages`.

    Where a conversation has several questions, `kind` is the last one's and `kinds` holds all. Records of one table
    stand together; shuffle them where that matters.
    """
    asked = questions or MessageOptions()
    left = count
    for table in make_tables(options, split=split):
        random = Random(f"questions/{options.seed}/{table.digest}")
        about = ask_some(table, asked, random)[:left]
        left -= len(about)
        while about:
            turns = random.randint(1, asked.turns) if asked.turns > 1 else 1
            yield _record(table, about[:turns], asked.style)
            about = about[turns:]
        if not left:
            return


def _record(table: Table, questions: Sequence[Question], style: Style) -> dict[str, Any]:
    messages = [
        message
        for question in questions
        for message in ({"role": "user", "content": question.text}, {"role": "assistant", "content": question.answer})
    ]
    messages[0]["content"] = f"{serialise(table, style)}\n\n{questions[0].text}"
    kinds = [question.kind for question in questions]
    return {
        "source": "unmask tables",
        "table_id": table.digest,
        "kind": kinds[-1],
        **({"kinds": kinds} if len(kinds) > 1 else {}),
        "messages": messages,
    }


def plural(predicate: str) -> str:
    """A predicate of several things: "lives in Oslo" becomes "live in Oslo"."""
    verb, _, rest = predicate.partition(" ")
    irregular = {"is": "are", "has": "have", "goes": "go"}
    return f"{irregular.get(verb, verb.removesuffix('s'))} {rest}"


def condition(column: Category | Quantity, query: Query, random: Random) -> str:
    """The predicate that `count` and `filter` ask for: "lives in Oslo", "is older than 40 years"."""
    if isinstance(column, Category):
        return random.choice(column.says).format(value=query.value)
    return (column.over if query.relation == ">" else column.under).format(value=query.value)


def degrees(column: Category | Quantity, query: Query) -> tuple[str, str]:
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
    column: Any = column_of(table, query)
    topic, keys = table.topic, [table.called(key) for key in query.keys]
    if query.kind == "look-up":
        plain = (
            f"What does the table say under {column.name} for {keys[0]}?",
            f"Look up the {column.name} of {keys[0]}.",
        )
        return random.choice((*column.asks, *column.asks, *plain)).format(key=keys[0])
    if query.kind in ("count", "filter"):
        asked_for = condition(column, query, random)
        several = plural(asked_for)
        wordings = {
            "count": (
                f"How many {topic.things} {several}?",
                f"Count every {topic.thing} that {asked_for}.",
                f"What is the number of {topic.things} that {several}?",
            ),
            "filter": (
                f"Which {topic.things} {several}?",
                f"Name every {topic.thing} that {asked_for}.",
                f"List all {topic.things} that {several}.",
            ),
        }
        return random.choice(wordings[query.kind])
    compared, extreme = degrees(column, query)
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
    column: Any = column_of(table, claim)
    compared, extreme = degrees(column, claim)
    match claim.kind:
        case "look-up":
            return f"{table.called(claim.keys[0])} {random.choice(column.says).format(value=claimed)}"
        case "count":
            counted = plural(condition(column, claim, random))
            return f"the number of {table.topic.things} that {counted} is {claimed}"
        case "comparison":
            other = claim.keys[1] if claimed == claim.keys[0] else claim.keys[0]
            return f"{table.called(claimed)} {compared} than {table.called(other)}"
    return f"{table.called(claimed)} {extreme}"
