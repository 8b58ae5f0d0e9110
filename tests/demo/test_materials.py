"""What the demo is made of: tables kept apart, files that repeat, statements that the table bears out."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.tiny import write_checkpoint
from unmask.data.table_queries import KINDS
from unmask.demo.materials import Size, read_rows, statements, write_questions
from unmask.lm import load

SIZE = Size(questions=200, unseen=80, statements=30)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("data"), SIZE, seed=3)


def table_of(content: str) -> str:
    return content.rpartition("\n\n")[0]


def test_files_hold_what_they_should_and_repeat(data, tmp_path) -> None:
    learned, unseen = read_rows(data.questions), read_rows(data.unseen)
    assert len(unseen) == 80 and all(len(row["messages"]) == 2 for row in unseen)
    assert sum(len(row["messages"]) // 2 for row in learned) == 200
    again = write_questions(tmp_path / "same", SIZE, seed=3)
    assert again.questions.read_bytes() == data.questions.read_bytes()
    other = write_questions(tmp_path / "other", SIZE, seed=4)
    assert other.unseen.read_bytes() != data.unseen.read_bytes()


def test_no_table_is_learned_and_asked_about(data) -> None:
    learned = {table_of(row["messages"][0]["content"]) for row in read_rows(data.questions)}
    asked = {table_of(row["messages"][0]["content"]) for row in read_rows(data.unseen)}
    assert learned and asked and not learned & asked


def test_all_kinds_are_asked(data) -> None:
    kinds = Counter(row["kind"] for row in read_rows(data.unseen))
    assert set(kinds) == set(KINDS)


def test_statements_are_told_by_their_table(tmp_path) -> None:
    found = statements(SIZE, seed=0)
    assert len(found) == 30 == len({each.table for each in found})
    for each in found:
        assert f"|{each.value} |" in each.table
        assert not each.before.endswith(" ") and each.after.endswith(".")
    # the stand-in's tokens are bytes; the space before the value is one of them
    lm = load(write_checkpoint(tmp_path), device="cpu")
    first = found[0]
    assert first.blanked(lm).count("[MASK]") == len(first.value.encode())
    assert first.blanked(lm).replace("[MASK]", "") == first.whole.replace(f"{first.before}{first.value}", first.before)
