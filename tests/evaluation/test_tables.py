"""Evaluation of answers to questions about tables: who is asked what, what is counted, what survives a kill."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from unmask.errors import ConfigError, DataError
from unmask.evaluation.tables import TableResults, evaluate_tables, fingerprint, score_predictions
from unmask.generation.options import GenerationOptions
from unmask.generation.trace import Forwards, Stats
from unmask.lm import DiffusionLM, Generation, load

OPTIONS = GenerationOptions(max_new_tokens=8, block_size=8, steps=4)


def record(asked: str, answer: str, **beside: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **beside}


def table(rows: int) -> str:
    return "| n | x |\n| --- | --- |\n" + "\n".join(f"| r{row} | {row} |" for row in range(rows)) + "\n\nx of r1?"


@pytest.fixture(scope="module")
def lm(checkpoint: Path) -> DiffusionLM:
    return load(checkpoint, device="cpu")


class Oracle(DiffusionLM):
    """Answers with the last word of the prompt, and remembers what it was asked."""

    def generate(self, prompts: Any, options: Any = None, *, seeds: Any = None, **settings: Any) -> list[Generation]:
        self.batches = [*getattr(self, "batches", []), len(prompts)]
        self.seeds = [*getattr(self, "seeds", []), *seeds]
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in prompts]
        words = [text.split("user")[-1].split("assistant")[0].split()[-1] for text in texts]
        stats = Stats(0, Forwards(0), 0)
        return [Generation(f" {word}\n", [], "stop", stats) for word in words]


@pytest.fixture
def oracle(lm: DiffusionLM) -> Oracle:
    return Oracle(lm.model, lm.tokenizer)


def test_answers_go_to_their_questions_whatever_the_batches(oracle: Oracle) -> None:
    records = [
        record("z " * (40 - 7 * number) + f"w{number}", f"w{number}" if number != 2 else "no") for number in range(5)
    ]
    seen: list[tuple[int, int]] = []
    results = evaluate_tables(oracle, records, options=OPTIONS, batch_size=2, progress=lambda *at: seen.append(at))
    assert [case.prediction for case in results.cases] == [f"w{number}" for number in range(5)]
    assert [case.metrics["em"] for case in results.cases] == [1, 1, 0, 1, 1]
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert oracle.batches == [2, 2, 1] and sorted(oracle.seeds) == [0, 1, 2, 3, 4]


def test_a_real_model_answers_the_same_in_any_batch(lm: DiffusionLM) -> None:
    records = [record(table(rows), "1", id=f"q{rows}") for rows in (3, 1, 2)]
    alone = evaluate_tables(lm, records, options=OPTIONS, batch_size=1)
    together = evaluate_tables(lm, records, options=OPTIONS, batch_size=3)
    assert alone.cases == together.cases
    by_hand = lm.generate(records[1]["messages"][:1], OPTIONS)[0].text.strip()
    assert alone.cases[1].prediction == by_hand


def test_long_tables_lose_rows_and_it_is_said(oracle: Oracle) -> None:
    records = [record(table(40), "1"), record("no table " * 60, "x"), record(table(2), "1")]
    results = evaluate_tables(oracle, records, options=OPTIONS)
    long, never, short = results.cases
    assert long.rows_left_out > 0 and long.table_rows == 40 - long.rows_left_out
    assert (long.prediction, short.rows_left_out, short.table_rows) == ("r1?", 0, 2)
    assert (never.finish_reason, never.prediction, never.metrics["em"]) == ("too_long", "", 0)
    assert any(note.startswith("1 of 3 tables were shortened") for note in results.notes)
    assert any(note.startswith("1 of 3 questions do not fit") for note in results.notes)


def answered(kinds: Sequence[str], right: Sequence[bool]) -> TableResults:
    records = [record(table(3), "x y", kind=kind, source="wikitablequestions", answers=["x y"]) for kind in kinds]
    return score_predictions(records, ["x y" if yes else "x" for yes in right])


def test_figures_by_group() -> None:
    results = answered(["count", "count", "sum", "sum"], [True, False, True, True])
    # 3 of 4; F1 of the wrong one is 2 * 0.5 / 1.5
    totals = results.totals
    assert totals["em"].count == 4 and totals["em"].mean == 0.75 and totals["denotation"].mean == 0.75
    assert totals["f1"].mean == pytest.approx((3 + 2 / 3) / 4)
    assert totals["em"].low < 0.75 < totals["em"].high
    # of 1, 0, 1, 1: the variance is 1/4, and a mean of four has half its root
    assert totals["em"].stderr == pytest.approx(0.25)
    kinds = results.breakdown["kind"]
    assert {kind: figures["em"].mean for kind, figures in kinds.items()} == {"count": 0.5, "sum": 1.0}
    assert set(results.breakdown) == {"kind"}  # tables and answers are all of one size


def test_groups_by_size_are_in_order() -> None:
    records = [record(table(rows), "w " * words) for rows, words in ((60, 9), (1, 1), (7, 2), (15, 5), (30, 3))]
    groups = score_predictions([*records, record("no table", "x")], [""] * 6).breakdown
    assert list(groups["table rows"]) == ["1-5", "6-10", "11-20", "21-50", "51+", "no table"]
    assert {name: figures["em"].count for name, figures in groups["answer words"].items()} == {
        "1": 2,
        "2-3": 2,
        "4-7": 1,
        "8+": 1,
    }


def test_an_interrupted_evaluation_goes_on(oracle: Oracle, tmp_path: Path) -> None:
    file, records = tmp_path / "new/cases.jsonl", [record(f"w{number}", "w1", id=str(number)) for number in range(6)]

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 4:
            raise Killed

    whole = evaluate_tables(oracle, records, options=OPTIONS)
    oracle.batches = []
    with pytest.raises(Killed):
        evaluate_tables(oracle, records, options=OPTIONS, batch_size=2, cases_file=file, progress=kill)
    with file.open("a") as stream:
        stream.write('{"id": "half a')
    results = evaluate_tables(oracle, records, options=OPTIONS, batch_size=3, cases_file=file)
    assert oracle.batches == [2, 2, 2]
    assert results.cases == whole.cases
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["id"] for row in written] == [str(number) for number in range(6)]
    assert written[1]["metrics"] == {"em": 1.0, "f1": 1.0}
    assert evaluate_tables(oracle, records, options=OPTIONS, cases_file=file).cases == whole.cases
    assert oracle.batches == [2, 2, 2]


def test_cases_of_something_else_are_not_mixed_in(oracle: Oracle, lm: DiffusionLM, tmp_path: Path) -> None:
    file, records = tmp_path / "cases.jsonl", [record("q", "a")]
    evaluate_tables(oracle, records, options=OPTIONS, cases_file=file)
    before = file.read_text()
    with pytest.raises(ConfigError, match="another model, other data or other settings"):
        evaluate_tables(oracle, records, options=GenerationOptions(max_new_tokens=9), cases_file=file)
    with pytest.raises(ConfigError, match="another model, other data or other settings"):
        evaluate_tables(oracle, [record("other", "a")], options=OPTIONS, cases_file=file)
    assert file.read_text() == before
    file.write_text("mine\n")
    with pytest.raises(ConfigError, match="cases.jsonl:1 is no case"):
        evaluate_tables(oracle, records, options=OPTIONS, cases_file=file)


def test_a_fingerprint_sees_any_training(checkpoint: Path) -> None:
    first, second = load(checkpoint, device="cpu"), load(checkpoint, device="cpu")
    assert fingerprint(first) == fingerprint(second)
    weight = next(iter(second.model.parameters()))
    weight.data += 1e-3
    assert fingerprint(first) != fingerprint(second)


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": "q"}], "text", None])
def test_records_without_an_answer(oracle: Oracle, messages: Any) -> None:
    with pytest.raises(DataError, match="record 1 has no question with an answer"):
        evaluate_tables(oracle, [record("q", "a"), {"messages": messages}], options=OPTIONS)


def test_tagged_answers_go_in_pairs() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}]
    odd = {"messages": turns, "source": "wikitablequestions", "answers": ["x"], "canonical": ["1", "2"]}
    with pytest.raises(DataError, match="record 0: canonical has 2 texts and answers 1"):
        score_predictions([odd], ["x"])
