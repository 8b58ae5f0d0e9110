"""Answers against a database: each query, written as SQL by hand here, runs over the same table in sqlite."""

from __future__ import annotations

import sqlite3
from collections import Counter
from itertools import islice
from random import Random

import pytest

from unmask.data.table_questions import KINDS, MessageOptions, Query, answer, ask, ask_some, message_records
from unmask.data.table_topics import Category
from unmask.data.tables import Table, TableOptions, make_tables, serialise
from unmask.errors import ConfigError

SQL = {
    "look-up": "SELECT {column} FROM t WHERE {key} = '{first}'",
    "count": "SELECT COUNT(*) FROM t WHERE {column} {relation} {value}",
    "filter": "SELECT GROUP_CONCAT(k, ', ') FROM "
    "(SELECT {key} AS k FROM t WHERE {column} {relation} {value} ORDER BY rowid)",
    "comparison": "SELECT {key} FROM t WHERE {key} IN ('{first}', '{second}') ORDER BY {column} {order} LIMIT 1",
    "superlative": "SELECT {key} FROM t ORDER BY {column} {order} LIMIT 1",
    "sum": "SELECT SUM({column}) FROM t",
    "difference": "SELECT MAX({column}) - MIN({column}) FROM t WHERE {key} IN ('{first}', '{second}')",
}


def database(table: Table) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    kinds = ["TEXT", *("TEXT" if isinstance(column, Category) else "INTEGER" for column in table.columns)]
    columns = ", ".join(f'"{name}" {kind}' for name, kind in zip(table.header, kinds, strict=True))
    connection.execute(f"CREATE TABLE t ({columns})")
    connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(table.header))})", table.rows)
    return connection


def by_database(table: Table, query: Query) -> str:
    if query.kind == "verification":
        assert query.claim is not None
        return "yes" if by_database(table, query.claim) == query.claimed else "no"
    first, second = (*query.keys, "", "")[:2]
    statement = SQL[query.kind].format(
        column=f'"{query.column}"',
        key=f'"{table.header[0]}"',
        first=first,
        second=second,
        relation=query.relation,
        value=f"'{query.value}'" if isinstance(query.value, str) else query.value,
        order="ASC" if query.relation == "<" else "DESC",
    )
    return str(database(table).execute(statement).fetchone()[0])


def some_tables(count: int, **options) -> list[Table]:
    return list(islice(make_tables(TableOptions(**options)), count))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_equal_the_database(kind) -> None:
    random = Random(1)
    asked = [(table, ask(table, kind, random)) for table in some_tables(300, seed=1, rows=(2, 7))]
    questions = [(table, question) for table, question in asked if question is not None]
    assert len(questions) > 200
    for table, question in questions:
        assert question.answer == answer(table, question.query) == by_database(table, question.query), question
        assert question.kind == kind


def test_a_filter_always_finds_something_and_verification_is_even() -> None:
    random = Random(2)
    tables = some_tables(600, rows=(3, 6))
    filtered = [ask(table, "filter", random) for table in tables]
    assert all(question.answer for question in filtered if question)
    verdicts = Counter(question.answer for table in tables if (question := ask(table, "verification", random)))
    assert verdicts.keys() == {"yes", "no"}
    assert 0.4 < verdicts["yes"] / verdicts.total() < 0.6


def test_no_question_can_be_answered_without_the_table() -> None:
    random = Random(3)
    for table in some_tables(200, topics=("cities", "animals"), columns=(2, 4)):
        for kind in KINDS:
            question = ask(table, kind, random)
            assert question is None or question.query.column not in ("country", "kind")


def test_one_row_allows_look_ups_but_no_comparison() -> None:
    random = Random(4)
    for table in some_tables(100, rows=(1, 1)):
        assert ask(table, "comparison", random) is None
        question = ask(table, "look-up", random)
        if question is not None:
            assert question.query.keys == table.keys
            assert question.answer in serialise(table)


def test_wordings_vary() -> None:
    random = Random(5)
    tables = some_tables(1, topics=("people",), columns=(4, 4), rows=(4, 4))
    texts = {kind: {ask(tables[0], kind, random).text for _ in range(60)} for kind in KINDS}  # type: ignore[union-attr]
    assert min(len(wordings) for wordings in texts.values()) >= 4
    assert all(text.endswith(("?", ".")) and "{" not in text for wordings in texts.values() for text in wordings)


def test_questions_of_a_table_differ_and_keep_to_the_kinds() -> None:
    for table in some_tables(50, rows=(4, 4)):
        questions = ask_some(table, MessageOptions(kinds=("look-up", "sum"), per_table=5), Random(6))
        assert len({question.query for question in questions}) == len(questions) <= 5
        assert {question.kind for question in questions} <= {"look-up", "sum"}


def test_records_are_conversations_and_repeatable() -> None:
    options, tagged = TableOptions(seed=7), MessageOptions(style="tagged")
    rows = list(message_records(options, 50, split="test", questions=tagged))
    assert rows == list(message_records(options, 50, split="test", questions=tagged))
    assert len(rows) == 50
    for row in rows:
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert user["content"].startswith("[TAB] col: |")
        assert assistant["content"]
    train = {row["table_id"] for row in message_records(options, 200)}
    assert not train & {row["table_id"] for row in rows}


def test_several_questions_share_a_table_that_stands_there_once() -> None:
    alone = list(message_records(TableOptions(seed=3), 60, questions=MessageOptions(per_table=4)))
    shared = list(message_records(TableOptions(seed=3), 60, questions=MessageOptions(per_table=4, turns=3)))
    pairs = [(row["table_id"], *_asked_and_answered(row)) for row in alone]
    assert [(row["table_id"], *pair) for row in shared for pair in _pairs(row)] == pairs
    lengths = Counter(len(row["messages"]) // 2 for row in shared)
    assert set(lengths) == {1, 2, 3}
    for row in shared:
        later = [message["content"] for message in row["messages"][2:]]
        assert "| --- |" in row["messages"][0]["content"] and not any("| --- |" in text for text in later)
        assert row.get("kinds", [row["kind"]])[-1] == row["kind"]
    assert Counter(kind for row in shared for kind in row.get("kinds", [row["kind"]])) == Counter(
        row["kind"] for row in alone
    )
    with pytest.raises(ConfigError, match="turns is 0; a conversation has at least 1 question"):
        MessageOptions(turns=0)


def _asked_and_answered(row) -> tuple[str, str]:
    (pair,) = _pairs(row)
    return pair


def _pairs(row) -> list[tuple[str, str]]:
    texts = [message["content"].rpartition("\n\n")[2] for message in row["messages"]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_an_unknown_kind_is_told() -> None:
    with pytest.raises(ConfigError, match='no kind of question "lookup".*Did you mean "look-up"'):
        MessageOptions(kinds=("lookup",))  # type: ignore[arg-type]
