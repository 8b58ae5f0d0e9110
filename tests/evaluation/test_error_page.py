"""The page of wrong answers: which it shows, what stands in it, and that no answer becomes markup."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from unmask.evaluation.cases import Case
from unmask.evaluation.error_page import Errors, error_page, recorded, wrong
from unmask.evaluation.tables import evaluate_tables
from unmask.generation.options import GenerationOptions
from unmask.lm import DiffusionLM, load

OPTIONS = GenerationOptions(max_new_tokens=6, block_size=3, steps=6)


def record(rows: int, answer: str = "x") -> dict[str, Any]:
    table = "| n |\n| --- |\n" + "\n".join(f"| {row} |" for row in range(rows))
    turns = [{"role": "user", "content": f"A title\n\n{table}\n\nHow many?"}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "rows_left_out": 2}


def case(**fields: Any) -> Case:
    told = {
        "id": "1",
        "kind": "",
        "source": "",
        "question": "q",
        "gold": "x",
        "prediction": "y",
        "metrics": {"em": 0.0},
    }
    return Case(**{**told, **fields})


def shown(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def lm(checkpoint: Path) -> DiffusionLM:
    return load(checkpoint, device="cpu")


def test_wrong_by_the_measure_of_the_corpus() -> None:
    cases = [
        case(),
        case(metrics={"em": 1.0}),
        case(metrics={"em": 0.0, "denotation": 1.0}),
        case(metrics={"em": 1.0, "tatqa_em": 0.0}),
        case(finish_reason="too_long"),
    ]
    assert wrong(cases, 10) == [0, 3]
    assert wrong([case()] * 100, 4) == [0, 25, 50, 75] and wrong(cases, 0) == []


def test_every_answer_is_shown_as_it_was_written(lm: DiffusionLM) -> None:
    records = [record(1 + number % 3, f"answer {number}") for number in range(5)]
    cases = evaluate_tables(lm, records, options=OPTIONS).cases
    numbers = [1, 3, 4]
    recording = recorded(lm, records, numbers, OPTIONS, batch_size=2)
    data = shown(error_page(Errors(records, cases, numbers, {"data": "a"}, recording)))
    assert [item["gold"] for item in data["cases"]] == ["answer 1", "answer 3", "answer 4"]
    for item, row in zip(data["cases"], data["recording"]["rows"], strict=True):
        # what was written in evaluation is what the trace ends with, and nothing else is in it
        assert row["text"].strip() == item["prediction"] == cases[item["number"] - 1].prediction
        assert row["masked"] == list(range(6)) == list(range(len(row["token_ids"])))
        assert sorted(place for commit in row["commits"] for place in commit["positions"]) == row["masked"]
    table = data["cases"][0]["table"]
    assert (table["header"], table["rows"], table["left_out"]) == (["n"], [["0"], ["1"]], 2)
    assert (data["cases"][0]["before"], data["cases"][0]["question"]) == ("A title", "How many?")


def test_no_answer_becomes_markup() -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    turns = [{"role": "user", "content": evil}, {"role": "assistant", "content": evil}]
    page = error_page(Errors([{"messages": turns}], [case(prediction=evil, gold=evil)], [0]))
    assert "<img" not in page and "://" not in page.replace("http://www.w3.org/2000/svg", "")
    item = shown(page)["cases"][0]
    assert item["prediction"] == evil and item["table"] is None and shown(page)["recording"] is None
