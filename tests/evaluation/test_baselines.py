"""Answers without a model, on questions whose answers can be seen."""

from __future__ import annotations

from unmask.data.table_text import serialise_rows
from unmask.evaluation.baselines import copy, majority

TABLE = serialise_rows(("name", "age", "city"), (("Anna", 31, "Oslo"), ("Ben", 25, "Rome"), ("Cleo", 25, "Paris")))


def record(question: str, answer: str, kind: str = "", table: str = TABLE) -> dict[str, object]:
    asked = f"{table}\n\n{question}" if table else question
    return {"kind": kind, "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def test_majority_is_by_kind() -> None:
    records = [record("?", answer, kind) for answer, kind in (("a", "x"), ("b", "x"), ("b", "x"), ("c", "y"))]
    assert majority(records) == ["b", "b", "b", "c"]


def test_copy_takes_the_cell_that_the_question_points_at() -> None:
    asked = ["What is the age of Ben?", "In which city does Cleo live?", "Whose city is Rome, by name?"]
    assert copy([record(question, "") for question in asked]) == ["25", "Paris", "Ben"]
    assert copy([record("no table", "", table="")]) == [""]
