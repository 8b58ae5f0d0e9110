"""Invented tables and short texts about them, out of a seed.

The same options give the same tables in any process. Which split a table belongs to is read off the table itself, so
that two splits share none, whatever the seeds. Knows no tokenizer; questions are in `table_questions`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from unmask.data.table_text import STYLES, Style, serialise_rows
from unmask.data.table_topics import BY_KEY, TOPICS, Category, Quantity, Topic
from unmask.errors import ConfigError, did_you_mean

Cell = str | int
Split = Literal["train", "test"]
TEST_SHARE = 8  # one table in so many is a test table


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows.

    Attributes:
        title: one line about it.
        topic: what it is about.
        columns: the columns after the first.
        rows: cells, the key first.
    """

    title: str
    topic: Topic
    columns: tuple[Category | Quantity, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def header(self) -> tuple[str, ...]:
        """Headers of all columns."""
        return (self.topic.header, *(column.name for column in self.columns))

    @property
    def keys(self) -> tuple[str, ...]:
        """The first column."""
        return tuple(str(row[0]) for row in self.rows)

    @property
    def digest(self) -> str:
        """A hash of header and rows in any order: tables that differ only in order or title are the same."""
        content = json.dumps([self.header, sorted(map(list, self.rows), key=str)])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def split(self) -> Split:
        """The split that this table belongs to."""
        return "test" if int(self.digest, 16) % TEST_SHARE == 0 else "train"

    def cells(self, column: Category | Quantity) -> tuple[Cell, ...]:
        """The values of a column, from the first row to the last."""
        index = self.columns.index(column) + 1
        return tuple(row[index] for row in self.rows)

    def called(self, key: str) -> str:
        """A key as a sentence says it: "the lamp"."""
        return self.topic.article + key


@dataclass(frozen=True)
class TableOptions:
    """How tables are drawn; more rows and columns are harder.

    Attributes:
        seed: other seeds, other tables.
        rows, columns: least and most, columns without the first.
        topics: names of topics; empty: all.
    """

    seed: int = 0
    rows: tuple[int, int] = (2, 6)
    columns: tuple[int, int] = (2, 4)
    topics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _range("rows", self.rows, max(len(topic.keys) for topic in TOPICS))
        _range("columns", self.columns, max(len(topic.columns) for topic in TOPICS))
        names = [topic.name for topic in TOPICS]
        for name in self.topics:
            if name not in names:
                raise ConfigError(
                    f'no topic "{name}" for tables; topics: {", ".join(names)}.{did_you_mean(name, names)}'
                )

    def chosen(self) -> tuple[Topic, ...]:
        """The topics to draw from."""
        return tuple(topic for topic in TOPICS if not self.topics or topic.name in self.topics)


def make_tables(options: TableOptions, *, split: Split = "train", first: int = 0) -> Iterator[Table]:
    """Tables without end, all different, all of one split.

    Args:
        options: how they are drawn.
        split: train or test.
        first: number of the first draw; a later one skips the tables before it.

    Raises:
        ConfigError: the options allow too few tables.
    """
    seen: set[str] = set()
    draw = first
    last_success = first
    while True:
        table = _draw(Random(f"tables/{options.seed}/{draw}"), options)
        draw += 1
        if table.split == split and table.digest not in seen:
            seen.add(table.digest)
            last_success = draw
            yield table
        elif draw - last_success > 20_000:
            raise ConfigError(
                f"after {len(seen):,} different {split} tables these options give no new ones. "
                "Ask for fewer tables, or for more rows, columns or topics."
            )


def tables_again(options: TableOptions, *, split: Split = "train") -> Iterator[Table]:
    """Tables without end, all of one split; where the options allow few, the same ones come again."""
    draws = (_draw(Random(f"tables/{options.seed}/{number}"), options) for number in itertools.count())
    return (table for table in draws if table.split == split)


def serialise(table: Table, style: Style = "markdown") -> str:
    """A table as text, without its title.

    `markdown` has a line per row; `tagged` is the one line `[TAB] col: | a | b | [SEP] | 1 | 2 | [SEP] ...` of
    TableLlama's data.
    """
    return serialise_rows(table.header, table.rows, style)


def sentence(text: str) -> str:
    """`text` with a capital and a full stop."""
    return text[:1].upper() + text[1:] + "."


def describe(table: Table, random: Random) -> str:
    """A paragraph that says what is in the table, row by row, and closes with what stands out."""
    said = [sentence(table.title)]
    for row in table.rows:
        said += _say_row(table, row, random)
    return " ".join(said + extremes(table, random))


def text_records(
    options: TableOptions, count: int, *, split: Split = "train", share_with_table: float = 0.0
) -> Iterator[dict[str, Any]]:
    """Rows `{"text": ...}` for pretraining, each about a table of its own.

    Args:
        options: how tables are drawn.
        count: rows.
        split: train or test.
        share_with_table: share of texts in which the table stands before the sentences, in either style.
    """
    for _, table in zip(range(count), make_tables(options, split=split), strict=False):
        random = Random(f"text/{options.seed}/{table.digest}")
        shown = random.random() < share_with_table
        style: Style = random.choice(STYLES)
        text = describe(table, random)
        yield {"text": f"{serialise(table, style)}\n\n{text}" if shown else text}


def fact_records(count: int, *, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows `{"text": ...}` of a few sentences that are the same in every table: which city lies where, and the like."""
    facts = [
        (topic, column, key)
        for topic in TOPICS
        for column in topic.columns
        if isinstance(column, Category) and column.by_key
        for key in topic.keys
    ]
    for number in range(count):
        random = Random(f"facts/{seed}/{number}")
        chosen = random.sample(facts, random.randint(2, 5))
        said = [
            sentence(f"{topic.article}{key} {random.choice(column.says).format(value=BY_KEY[key])}")
            for topic, column, key in chosen
        ]
        yield {"text": " ".join(said)}


def _range(name: str, limits: tuple[int, int], most: int) -> None:
    low, high = limits
    if not 1 <= low <= high <= most:
        raise ConfigError(f"{name} of tables is {low} to {high}; it must be two numbers from 1 to {most}, ascending.")


def _draw(random: Random, options: TableOptions) -> Table:
    topic = random.choice(options.chosen())
    height = min(random.randint(*options.rows), len(topic.keys))
    width = min(random.randint(*options.columns), len(topic.columns))
    columns = tuple(random.sample(topic.columns, width))
    keys = random.sample(topic.keys, height)
    drawn = [_column(column, keys, random) for column in columns]
    rows = tuple(zip(keys, *drawn, strict=True))
    return Table(random.choice(topic.titles), topic, columns, rows)


def _column(column: Category | Quantity, keys: list[str], random: Random) -> list[Cell]:
    if isinstance(column, Quantity):
        # Without repetition: every comparison and superlative has one answer.
        return list(random.sample(range(column.low, column.high + 1, column.step), len(keys)))
    if column.by_key:
        return [BY_KEY[key] for key in keys]
    # Few different values, so that counting and filtering have something to find.
    pool = random.sample(column.values, min(len(column.values), max(2, (len(keys) + 2) // 2)))
    return [random.choice(pool) for _ in keys]


def _say_row(table: Table, row: tuple[Cell, ...], random: Random) -> list[str]:
    phrases = [
        random.choice(column.says).format(value=value) for column, value in zip(table.columns, row[1:], strict=True)
    ]
    random.shuffle(phrases)
    name = table.called(str(row[0]))
    said = []
    while phrases:
        taken = [phrases.pop() for _ in range(min(len(phrases), random.choice((1, 2))))]
        said.append(sentence(f"{name} {' and '.join(taken)}"))
    return said


def extremes(table: Table, random: Random) -> list[str]:
    """In half of the cases a sentence about the most and the least of a column of numbers."""
    quantities = [column for column in table.columns if isinstance(column, Quantity)]
    if len(table.rows) < 2 or not quantities or random.random() < 0.5:
        return []
    column = random.choice(quantities)
    order = sorted(range(len(table.rows)), key=lambda index: int(table.cells(column)[index]))
    lowest, highest = table.called(table.keys[order[0]]), table.called(table.keys[order[-1]])
    return [
        random.choice(
            [
                sentence(f"{highest} {column.most}"),
                sentence(f"{lowest} {column.least}"),
                sentence(f"{highest} {column.more} than {lowest}"),
                sentence(f"{lowest} {column.less} than {highest}"),
            ]
        )
    ]
