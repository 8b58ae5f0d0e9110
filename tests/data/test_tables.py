"""Generated tables and texts: the same for a seed in any process, no table in two splits, every cell said once."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from random import Random

import pytest

from unmask.data.table_topics import COUNTRY_OF, KIND_OF, TOPICS
from unmask.data.tables import TableOptions, describe, fact_records, make_tables, serialise, text_records
from unmask.errors import ConfigError

DIGESTS = """
from unmask.data.tables import TableOptions, make_tables
made = make_tables(TableOptions(seed=5))
print([next(made).digest for _ in range(9)])
"""


def tables(count: int = 300, split: str = "train", **options):
    return list(islice(make_tables(TableOptions(**options), split=split), count))


def test_other_processes_draw_the_same_tables() -> None:
    runs = {
        subprocess.run(
            [sys.executable, "-c", DIGESTS], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {f"{[table.digest for table in tables(9, seed=5)]}\n"}


def test_seeds_differ() -> None:
    assert not {table.digest for table in tables(seed=0)} & {table.digest for table in tables(seed=1)}


def test_splits_share_no_table_even_where_few_tables_exist() -> None:
    small = {"rows": (1, 1), "columns": (1, 1), "topics": ("teams",)}
    train = {table.digest for seed in range(3) for table in tables(60, seed=seed, **small)}
    test = {table.digest for seed in range(3) for table in tables(20, "test", seed=seed, **small)}
    assert train and test and not train & test


def test_the_order_of_rows_and_the_title_make_no_other_table() -> None:
    table = tables(1, rows=(4, 4))[0]
    assert replace(table, rows=table.rows[::-1], title="Another").digest == table.digest
    assert replace(table, rows=table.rows[:-1]).digest != table.digest


def test_too_small_a_world_is_told() -> None:
    with pytest.raises(ConfigError, match="give no new ones. Ask for fewer"):
        tables(10**6, rows=(1, 1), columns=(1, 1), topics=("trains",))


def test_sizes_keep_to_the_options_and_topics_vary() -> None:
    made = tables(rows=(3, 5), columns=(2, 3))
    assert {len(table.rows) for table in made} == {3, 4, 5}
    assert {len(table.columns) for table in made} == {2, 3}
    assert {table.topic.name for table in made} == {topic.name for topic in TOPICS}


def test_keys_and_numbers_do_not_repeat_in_a_column() -> None:
    for table in tables(rows=(6, 6)):
        assert len(set(table.keys)) == 6
        for column in table.columns:
            cells = table.cells(column)
            assert isinstance(cells[0], str) or len(set(cells)) == 6


def test_cities_lie_where_they_lie() -> None:
    for table in tables(50, topics=("cities",), columns=(4, 4)):
        column = next(column for column in table.columns if column.name == "country")
        assert dict(zip(table.keys, table.cells(column), strict=True)).items() <= COUNTRY_OF.items()


def test_markdown() -> None:
    table = tables(1, rows=(2, 2), columns=(2, 2))[0]
    header, rule, *rows = serialise(table).split("\n")
    assert [cell.strip() for cell in header.strip("|").split("|")] == list(table.header)
    assert set(rule) == set("|- ")
    assert rule.count("|") == header.count("|") == 4
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] == [
        [str(cell) for cell in row] for row in table.rows
    ]


def test_tagged_holds_the_same_cells() -> None:
    table = tables(1, rows=(2, 2), columns=(1, 1), topics=("people",), seed=3)[0]
    (a, b), (c, d), (e, f) = table.header, *table.rows
    assert serialise(table, "tagged") == f"[TAB] col: | {a} | {b} | [SEP] | {c} | {d} | [SEP] | {e} | {f} |"


def test_unknown_names_are_told() -> None:
    with pytest.raises(ConfigError, match='no table style "markdwon".*Did you mean "markdown"'):
        serialise(tables(1)[0], "markdwon")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match='no topic "citys".*Did you mean "cities"'):
        TableOptions(topics=("citys",))
    with pytest.raises(ConfigError, match="rows of tables is 5 to 2"):
        TableOptions(rows=(5, 2))


def test_a_text_names_every_cell() -> None:
    for table in tables(100, rows=(1, 3)):
        text = describe(table, Random(0))
        words = Counter(text.replace(".", " ").split())
        for row in table.rows:
            assert str(row[0]) in text
            assert all(words[word] for cell in row[1:] for word in str(cell).split())
        assert all(part[:1].isupper() for part in text.split(". "))


def test_text_records_are_repeatable_and_may_show_their_table() -> None:
    plain = list(text_records(TableOptions(seed=2), 40))
    assert plain == list(text_records(TableOptions(seed=2), 40))
    assert len({row["text"] for row in plain}) == 40
    assert not any("|" in row["text"] for row in plain)
    shown = list(text_records(TableOptions(seed=2), 40, share_with_table=1.0))
    assert all("\n\n" in row["text"] and "|" in row["text"] for row in shown)
    assert {row["text"].startswith("[TAB] col:") for row in shown} == {True, False}


def test_facts_are_true_and_repeatable() -> None:
    rows = list(fact_records(60, seed=1))
    assert rows == list(fact_records(60, seed=1)) != list(fact_records(60, seed=2))
    sentences = [part for row in rows for part in row["text"].removesuffix(".").split(". ")]
    for part in sentences:
        words = part.lower().split()
        city = part.split()[0]
        if city in COUNTRY_OF:
            assert words[-1] == COUNTRY_OF[city].lower()
        else:
            assert KIND_OF[words[1]] in words
    assert {len(row["text"].split(". ")) for row in rows} == {2, 3, 4, 5}
