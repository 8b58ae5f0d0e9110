"""Paired differences: against theory and enumeration; cases are paired by what they ask."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.errors import DataError
from unmask.evaluation.compare import compare, difference, document, page


def written(folder: Path, cases: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    return folder


def case(name: str, em: float, **more: Any) -> dict[str, Any]:
    return {"key": f"other model {name} {em}", "id": name, "question": name, "gold": "x", "metrics": {"em": em, **more}}


def test_the_interval_is_as_wide_as_theory_says() -> None:
    draw = np.random.default_rng(1)
    common, gap = draw.normal(0, 10, 500), draw.normal(0.3, 1.0, 500)
    found = difference(list(common), list(common + gap), [1.0] * 500)
    assert found.difference == pytest.approx(gap.mean())
    # paired: the spread of what both have in common does not count
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * gap.std() / 500**0.5, rel=0.1)
    assert found.low < gap.mean() < found.high


def test_means_are_weighted() -> None:
    found = difference([1.0, 2.0], [1.0, 5.0], [3.0, 1.0])
    assert (found.first, found.second, found.difference) == (1.25, 2.0, 0.75)


@pytest.mark.parametrize(("larger", "smaller"), [(0, 0), (5, 0), (3, 1), (4, 4), (2, 7)])
def test_the_sign_test_counts_divisions(larger: int, smaller: int) -> None:
    first, second = [0.0] * larger + [1.0] * smaller + [1.0], [1.0] * larger + [0.0] * smaller + [1.0]
    found = difference(first, second, [1.0] * len(first))
    count = larger + smaller
    divisions = [sum(signs) for signs in itertools.product([0, 1], repeat=count)]
    as_uneven = [ups for ups in divisions if abs(2 * ups - count) >= abs(larger - smaller)]
    assert found.sign_p == pytest.approx(len(as_uneven) / len(divisions))
    assert (found.larger, found.smaller) == (larger, smaller)


def test_nothing_differs_from_itself(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", [case(str(n), n % 2) for n in range(9)])
    (found,) = compare(folder, folder).differences.values()
    assert (found.difference, found.low, found.high, found.sign_p) == (0, 0, 0, 1)


def test_cases_are_paired_by_what_they_ask(tmp_path: Path) -> None:
    first = written(
        tmp_path / "a", [case("1", 0, f1=0.5), case("2", 1, f1=1.0), case("3", 1, f1=1.0), case("4", 0, f1=0)]
    )
    second = written(tmp_path / "b", [case("3", 0), case("9", 0), case("1", 1), case("2", 1)])
    found = compare(first, second)
    assert list(found.differences) == ["em"] and (found.only_first, found.only_second) == (1, 1)
    em = found.differences["em"]
    assert (em.cases, em.larger, em.smaller, em.difference) == (3, 1, 1, 0)
    text = page(("a", "b"), found)
    assert "| em | 0.6667 | 0.6667 | +0.0000" in text and "2 cases that only one of them has are left out" in text
    assert json.loads(json.dumps(document(("a", "b"), found)))["differences"]["em"]["cases"] == 3


def test_equal_questions_are_told_apart_by_their_order(tmp_path: Path) -> None:
    first = written(tmp_path / "a", [case("1", 0), case("1", 1)])
    second = written(tmp_path / "b", [case("1", 1), case("1", 1)])
    assert compare(first, second).differences["em"].cases == 2


def test_mistakes_are_named(tmp_path: Path) -> None:
    first = written(tmp_path / "a", [case("1", 0)])
    with pytest.raises(DataError, match="cannot read .*Give the folder of an evaluation"):
        compare(first, tmp_path / "absent")
    with pytest.raises(DataError, match="share no case"):
        compare(first, written(tmp_path / "b", [case("2", 0)]))
    with pytest.raises(DataError, match="share no metric"):
        compare(first, written(tmp_path / "c", [{**case("1", 0), "metrics": {"nll": 1.0}}]))
    with pytest.raises(DataError, match="cases.jsonl:1 is no case"):
        compare(first, written(tmp_path / "d", [{"id": 1}]))
