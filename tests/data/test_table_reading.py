"""Tables with facts said again: what is said is true of the table, other splits show other tables."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from unmask.data.table_reading import Reading, readings
from unmask.data.table_text import read_table
from unmask.data.tables import TableOptions

ONE_COLUMN = TableOptions(rows=(3, 4), columns=(1, 1), topics=("people",))


def some(count: int = 300, **options) -> list[Reading]:
    return list(islice(readings(ONE_COLUMN, **options), count))


def rows_of(reading: Reading) -> set[tuple[str, ...]]:
    return set(read_table(reading.given.strip()).rows)


def test_the_same_again() -> None:
    assert some() == some()


def test_splits_share_no_table() -> None:
    train, test = ({frozenset(rows_of(reading)) for reading in some(split=split)} for split in ("train", "test"))
    assert not train & test


def test_rows_said_again_are_the_tables_own_in_another_order() -> None:
    again = [reading for reading in some() if reading.said.startswith("|")]
    assert 50 < len(again) < 130
    for reading in again:
        said = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in reading.said.split("\n") if line}
        assert said == rows_of(reading)


def test_sentences_tell_cells_of_their_row() -> None:
    told = 0
    for reading in some():
        if reading.said.startswith("|"):
            continue
        for sentence in re.findall(r"[^.]+\.", reading.said):
            if re.search(r"(est|er than \w+)\.", sentence):
                continue
            words = set(re.findall(r"\w+", sentence))
            matching = [row for row in rows_of(reading) if set(row) <= words]
            assert len(matching) == 1, sentence
            told += 1
    assert told > 200


@pytest.mark.parametrize("wordings", [1, 2])
def test_as_many_wordings_as_asked_for(wordings: int) -> None:
    said = " ".join(reading.said for reading in some(600, wordings=wordings))
    assert " cm tall" in said
    assert ("measures" in said) == (wordings == 2)
