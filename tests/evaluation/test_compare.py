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
    assert found.missing == ("f1",) and "In no case do both have: f1." in text and found.groups == {}
    assert json.loads(json.dumps(document(("a", "b"), found)))["differences"]["em"]["cases"] == 3


def of_task(task: str, name: str, **metrics: Any) -> dict[str, Any]:
    return {"id": name, "kind": task, "gold": "x", "metrics": metrics}


def test_tasks_are_compared_one_by_one(tmp_path: Path) -> None:
    """And metrics that some tasks have not are, too; what all cases have is pooled beside."""
    first = [of_task("arc", str(n), acc=0.0, norm=1.0) for n in range(4)] + [of_task("gsm", "5", em=1.0, acc=1.0)]
    second = [of_task("arc", str(n), acc=n % 2, norm=0.0) for n in range(4)] + [of_task("gsm", "5", em=0.0, acc=1.0)]
    second[0]["metrics"].pop("norm")
    found = compare(written(tmp_path / "a", first), written(tmp_path / "b", second))
    told = {group: {name: gap.difference for name, gap in own.items()} for group, own in found.groups.items()}
    assert told == {"arc": {"acc": 0.5, "norm": -1.0}, "gsm": {"em": -1.0, "acc": 0.0}}
    assert found.groups["arc"]["norm"].cases == 3
    assert {name: (gap.difference, gap.cases) for name, gap in found.differences.items()} == {
        "acc": (pytest.approx(0.4), 5)
    }
    text = page(("a", "b"), found)
    assert [line for line in text.splitlines() if line.startswith("#")] == ["## All", "## arc", "## gsm"]
    assert text.count("| acc |") == 3 and text.count("| em |") == text.count("| norm |") == 1


def test_corpora_without_a_common_metric_are_compared(tmp_path: Path) -> None:
    rows = [{**of_task("", "1", em=1.0), "source": "wtq"}, {**of_task("", "2", bleu=0.5), "source": "fetaqa"}]
    folder = written(tmp_path / "a", rows)
    found = compare(folder, folder)
    assert {group: list(own) for group, own in found.groups.items()} == {"wtq": ["em"], "fetaqa": ["bleu"]}
    assert found.differences == {} and page(("a", "b"), found).startswith("## wtq\n")


def test_cases_without_a_figure_or_weight_say_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    rows = [case("1", 1), {**case("2", 9), "weights": {"em": 0}}, case("3", float("nan")), case("4", 0)]
    rows.append({**case("5", 1), "metrics": {"em": None}})
    folder = written(tmp_path / "a", rows)
    em = compare(folder, folder).differences["em"]
    assert (em.cases, em.first, em.second, len(recwarn)) == (2, 0.5, 0.5, 0)
    with pytest.raises(DataError, match="share no metric"):
        compare(written(tmp_path / "b", rows[1:3]), folder)


def test_lines_end_where_json_lines_end(tmp_path: Path) -> None:
    """Other line breaks of Unicode are part of an answer."""
    folder, rows = tmp_path / "a", [case("a\u2028b", 0), case("c\u0085d\x0b", 1)]
    folder.mkdir()
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "cases.jsonl").write_text(text.removesuffix("\n"), encoding="utf-8")
    assert compare(folder, folder).differences["em"].cases == 2


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
    for number, content in enumerate(
        (b"\xff\xfe{}\n", b"\n", b"[" * 100_000, b'{"metrics": {"em": 1%s}}' % (b"0" * 999))
    ):
        (tmp_path / f"{number}.jsonl").write_bytes(content)
        with pytest.raises(DataError, match=rf"{number}.jsonl:1 is no case of an evaluation"):
            compare(first, tmp_path / f"{number}.jsonl")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": {"em": "a"}}, r'em is "a", which is no number'),
        ({"weights": {"em": [1]}}, r"weight of em is \[1\], which is no number"),
        ({"weights": {"em": -1}}, "the weight of em is below 0"),
    ],
)
def test_what_is_no_figure_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = written(tmp_path / "a", [case("0", 1), {**case("1", 0), **changes}])
    with pytest.raises(DataError, match=f"cases.jsonl:2 is no case of an evaluation \\({said}"):
        compare(folder, folder)
