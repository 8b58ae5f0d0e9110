"""`example:text` and `example:tables`: the same rows again, other rows for other seeds and splits, no shared table."""

from __future__ import annotations

import re
from itertools import product

import pytest

from unmask.data.examples import EXAMPLE_KINDS, EXAMPLE_NAMES, example_rows
from unmask.data.table_text import read_table

LEVELS = [(kind, name) for kind in EXAMPLE_KINDS for name in EXAMPLE_NAMES[kind]]


def rows(kind: str, name: str, count: int = 120, seed: int = 0, split: str = "train") -> list[dict]:
    return list(example_rows(kind, name=name, count=count, seed=seed, split=split))


@pytest.mark.parametrize(("kind", "name"), LEVELS)
def test_as_many_rows_as_asked_for_and_the_same_ones_again(kind: str, name: str) -> None:
    made = rows(kind, name)
    assert len(made) == 120
    assert made == rows(kind, name)
    assert made[:50] == rows(kind, name, count=50)


@pytest.mark.parametrize(("kind", "name"), LEVELS)
def test_seeds_and_splits_share_no_row(kind: str, name: str) -> None:
    drawn = [
        {str(row) for row in rows(kind, name, seed=seed, split=split)}
        for seed, split in product((0, 1), ("train", "test"))
    ]
    together = set().union(*drawn)
    # two seeds may meet by chance where tables are small; splits never
    assert not drawn[0] & drawn[1]
    assert not drawn[2] & drawn[3]
    assert len(together) > 0.95 * sum(map(len, drawn))


def test_no_table_is_in_both_splits() -> None:
    train, test = ({row["table_id"] for row in rows("tables", "easy", 400, split=split)} for split in ("train", "test"))
    assert train and test and not train & test


@pytest.mark.parametrize(("name", "least", "most"), [("easy", 1, 3), ("", 2, 6), ("hard", 6, 12)])
def test_levels_are_as_large_as_they_say(name: str, least: int, most: int) -> None:
    sizes = {len(read_table(row["messages"][0]["content"]).rows) for row in rows("tables", name, 400)}
    assert (min(sizes), max(sizes)) == (least, most)


def test_look_ups_are_answered_by_a_cell() -> None:
    for row in rows("tables", "look-up"):
        question, answer = (message["content"] for message in row["messages"])
        assert row["kind"] == "look-up"
        assert re.search(rf"\| {re.escape(answer)} \|", question)


def test_about_half_of_the_texts_stand_below_their_table() -> None:
    texts = [row["text"] for row in rows("text", "", 400)]
    assert 0.3 < sum("|" in text for text in texts) / len(texts) < 0.6
