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


def test_a_key_and_a_value_stand_where_it_says() -> None:
    for reading in some():
        rows = rows_of(reading)
        for start, end in reading.spans("value"):
            assert reading.said[start:end].strip() in {row[1] for row in rows}
        for start, end in reading.spans("key"):
            assert reading.said[start:end].strip() in {row[0] for row in rows}


@pytest.mark.parametrize("wordings", [1, 2])
def test_as_many_wordings_as_asked_for(wordings: int) -> None:
    said = " ".join(reading.said for reading in some(600, wordings=wordings))
    assert " cm tall" in said
    assert ("measures" in said) == (wordings == 2)


def reasoned(kind: str) -> list[tuple[list[tuple[str, ...]], str, str]]:
    """Rows, statement and its values for statements of a shape."""
    options = TableOptions(rows=(2, 5), columns=(1, 1), topics=("people",))
    found = []
    for reading in islice(readings(options, reasoned=1.0), 600):
        table = read_table(reading.given.strip())
        start = 0
        for sentence in re.findall(r" [^.]+\.", reading.said):
            end = start + len(sentence)
            if re.search(kind, sentence):
                told = [reading.said[a:b].strip() for a, b in reading.spans("value") if start <= a < end]
                found.append(([tuple(row) for row in table.rows], sentence, ", ".join(told)))
            start = end
    assert len(found) > 30
    return found


def test_the_oldest_is_the_oldest() -> None:
    for rows, _, told in reasoned(r"the oldest"):
        assert dict(rows)[told] == str(max(int(age) for _, age in rows))


def test_what_a_column_adds_up_to() -> None:
    for rows, _, told in reasoned(r"(adds up to|Together the)"):
        assert int(told) == sum(int(value) for _, value in rows)


def test_those_older_than_somebody() -> None:
    for rows, sentence, told in reasoned(r"^ All people that are older"):
        bound = int(re.findall(r"\d+", sentence)[0])
        assert told == ", ".join(name for name, age in rows if int(age) > bound)


def test_the_gap_between_two() -> None:
    for rows, sentence, told in reasoned(r"apart"):
        one, other = (int(value) for name, value in rows if name in sentence)
        assert int(told) == abs(one - other)


def test_the_number_of_people_in_a_city() -> None:
    for rows, sentence, told in reasoned(r"number of people that (live|have a home) in"):
        assert int(told) == sum(f" {city} " in sentence for _, city in rows)


def test_the_older_of_two() -> None:
    for rows, sentence, told in reasoned(r"is older\."):
        named = {name: int(age) for name, age in rows if name in sentence}
        assert told == max(named, key=named.__getitem__)


def test_made_up_words_are_told_from_the_table_too() -> None:
    known = {name for reading in some() for row in rows_of(reading) for name in row[:1]}
    for reading in some(foreign=1.0):
        rows = rows_of(reading)
        assert not {row[0] for row in rows} & known
        told = {reading.said[start:end].strip() for start, end in reading.spans("value")}
        assert told <= {row[1] for row in rows}
