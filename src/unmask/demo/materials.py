"""What the demo is made of: how much of everything, questions in files, statements with a value missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from random import Random
from typing import Any

from unmask.data.table_queries import KINDS, Kind
from unmask.data.table_questions import MessageOptions, message_records
from unmask.data.table_reading import statement
from unmask.data.tables import TableOptions, make_tables, serialise
from unmask.lm import BLANK, DiffusionLM

ABOUT_EACH = 6  # questions about a table, at most
# what is learned more often: the other kinds are a look-up and more; sums of numbers of two and three digits are
# beyond a model of this size
SHARES: dict[Kind, int] = {**dict.fromkeys(KINDS, 2), "look-up": 4, "sum": 1, "difference": 1}


@dataclass(frozen=True)
class Size:
    """How much of everything; the defaults take a few minutes on two cores.

    Attributes:
        base: the model that is fine-tuned.
        rows, columns: of the tables, least and most, columns without the first.
        questions: to learn from. unseen: to be answered. statements: to be filled in.
        steps: of fine-tuning, at most. batch: conversations of a step. length: tokens of the longest conversation.
    """

    base: str = "example:base"
    rows: tuple[int, int] = (2, 4)
    columns: tuple[int, int] = (1, 2)
    questions: int = 40_000
    unseen: int = 400
    statements: int = 100
    steps: int = 2000
    batch: int = 8
    length: int = 256

    def tables(self, seed: int) -> TableOptions:
        """How tables are drawn."""
        return TableOptions(seed=seed, rows=self.rows, columns=self.columns)


@dataclass(frozen=True)
class DataFiles:
    """Questions to learn from, and questions about tables that none of the former is about."""

    questions: Path
    unseen: Path


@dataclass(frozen=True)
class Statement:
    """A table and a true sentence below it, cut around a value that the table tells."""

    table: str
    before: str
    value: str
    after: str

    @property
    def whole(self) -> str:
        """The text with nothing missing."""
        return f"{self.table}{self.before}{self.value}{self.after}"

    def blanked(self, lm: DiffusionLM) -> str:
        """The text with a blank for every token of the value."""
        blanks = len(lm.tokenizer(self.value, add_special_tokens=False)["input_ids"])
        return f"{self.table}{self.before}{BLANK * blanks}{self.after}"


def write_questions(folder: Path, size: Size, seed: int) -> DataFiles:
    """Write two files of conversations, all kinds of questions in each; they share no table.

    What is learned from has several questions about a table in one conversation, so that the table is read once for
    all of them; what is to be answered has one each.
    """
    several = MessageOptions(tuple(kind for kind in KINDS for _ in range(SHARES[kind])), per_table=ABOUT_EACH)
    records = message_records(size.tables(seed), size.questions, questions=several)
    unseen = message_records(size.tables(seed), size.unseen, split="test")
    return DataFiles(
        _write(folder / "questions.jsonl", _conversations(records, Random(f"demo/{seed}"))),
        _write(folder / "questions_unseen.jsonl", unseen),
    )


def statements(size: Size, seed: int) -> list[Statement]:
    """Statements of single cells of test tables, each about a table of its own."""
    return list(islice(_statements(size.tables(seed)), size.statements))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text("utf-8").removesuffix("\n").split("\n")]


def _conversations(records: Iterable[dict[str, Any]], random: Random) -> Iterator[dict[str, Any]]:
    """One question or several about each table; the table stands before the first of them alone."""
    for _, about in groupby(records, key=lambda record: record["table_id"]):
        left = list(about)
        while left:
            count = random.randint(1, ABOUT_EACH)
            asked, left = left[:count], left[count:]
            turns = [turn for record in asked for turn in record["messages"]]
            for turn in turns[2::2]:
                turn["content"] = turn["content"].rpartition("\n\n")[2]
            yield {"messages": turns}


def _statements(options: TableOptions) -> Iterator[Statement]:
    for table in make_tables(options, split="test"):
        pieces = statement(table, "look-up", Random(f"demo/{table.digest}"))
        place = next((number for number, piece in enumerate(pieces) if piece.what == "value"), None)
        if place is not None:
            before, after = ("".join(piece.text for piece in part) for part in (pieces[:place], pieces[place + 1 :]))
            yield Statement(f"{serialise(table)}\n", before, pieces[place].text, after)


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path
