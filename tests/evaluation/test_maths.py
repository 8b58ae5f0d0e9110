"""Answers found and judged: 1,050 real outputs as the scorer of those who made them does, and cases by hand."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from unmask.evaluation import maths

# Right answers (of sudoku: right cells) by task and length, as counted by `parse_and_get_acc.py` of dllm-reasoning/d1,
# who wrote these files; run on them as they are.
THEIRS = {
    **{"gsm8k_128": 122, "gsm8k_256": 136, "gsm8k_512": 144},
    **{"math500_128": 33, "math500_256": 34, "math500_512": 36},
    **{"countdown_128": 7, "countdown_256": 7, "countdown_512": 7},
    **{"sudoku_128": 42, "sudoku_256": 23, "sudoku_512": 27},
}
# Where it misreads a right answer: numbers with a comma (6,277; 8,000), boxes that are not closed on their line (36,
# 225, 60, 90); and a fenced grid, the fence of which it counts as three cells, two of them right by chance.
MISREAD = {"gsm8k_128": 2, "gsm8k_256": 3, "gsm8k_512": 1, "sudoku_512": -2}


def sudoku_right(row: dict[str, Any]) -> int:
    puzzle = row["question"].split(": ")[1].strip()
    return maths.sudoku_cells(puzzle, row["ground_truth"], maths.sudoku_answer(row["generations"]))[0]


RIGHT: dict[str, Callable[[dict[str, Any]], int]] = {
    "gsm8k": lambda row: maths.word_problem_answer(row["generations"]) == row["ground_truth"],
    "math500": lambda row: maths.same_mathematics(row["ground_truth"], maths.mathematics_answer(row["generations"])),
    "countdown": lambda row: maths.countdown_right(*row["ground_truth"], maths.countdown_answer(row["generations"])),
    "sudoku": sudoku_right,
}


def test_real_outputs_are_judged_as_by_their_own_scorer(shared: Path) -> None:
    right: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for file in sorted((shared / "data/golden_llada_generations").glob("*.json")):
        task, _, length = file.name.split("_")[:3]
        for row in json.loads(file.read_text(encoding="utf-8"))["generations"]:
            right[f"{task}_{length}"] += int(RIGHT[task](row))
            rows[task] += 1
    assert sum(rows.values()) == 1050
    assert right == {name: count + MISREAD.get(name, 0) for name, count in THEIRS.items()}


def test_the_solutions_of_gsm8k_and_math_are_right(shared: Path) -> None:
    """The data's own solutions, read as a model's would be, give the data's own answers."""
    for line in (shared / "data/gsm8k/test.first200.jsonl").read_text(encoding="utf-8").splitlines():
        solution = json.loads(line)["answer"]
        assert maths.word_problem_answer(solution) == float(solution.split("####")[1].replace(",", ""))
    for line in (shared / "data/math/math500.first100.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert maths.same_mathematics(row["answer"], maths.mathematics_answer(row["solution"])), row["answer"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac{1}{2}", r"\dfrac12"),
        (r"\frac{1}{2}", "0.5"),
        (r"\frac{1}{2}", " 1/2 "),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"\sqrt{3}", r"\sqrt3"),
        ("10", r"10\%"),
        ("90", r"90^\circ"),
        ("0.25", ".25"),
        ("5", "x=5"),
        ("18", r"\$18"),
        ("12", r"12\text{ cm}"),
    ],
)
def test_one_expression_in_two_spellings(one: str, other: str) -> None:
    assert maths.same_mathematics(one, other) and maths.same_mathematics(other, one)


@pytest.mark.parametrize(("one", "other"), [("1", "2"), (r"\frac{1}{2}", r"\frac{2}{1}"), ("a+b=c", "c"), ("x", None)])
def test_two_expressions(one: str, other: str | None) -> None:
    assert not maths.same_mathematics(one, other)


def test_boxes_are_matched_brace_by_brace() -> None:
    text = r"so \boxed{1}, or \boxed{\frac{1}{2}} then \boxed 7$, cut off \boxed{\frac{3}{"
    assert maths.boxes(text) == ["1", r"\frac{1}{2}", "7"]
    assert maths.last_box("no box") is None


def test_numbers() -> None:
    assert maths.number_in("about -1,234.5 or 6") == -1234.5
    assert maths.number_in("about -1,234.5 or 6.", last=True) == 6
    assert maths.number_in("none") is None
    assert maths.word_problem_answer("... 5 <answer> 3 or 4 apples") == 4
    assert maths.word_problem_answer("nothing 5") is None


def test_sudokus_of_the_data_are_solved(shared: Path) -> None:
    with (shared / "data/sudoku_countdown/d1/4x4_test_sudoku.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        puzzle, solution = row["Puzzle"], row["Solution"]
        assert maths.sudoku_solved(puzzle, solution)
        assert maths.sudoku_cells(puzzle, solution, solution) == (puzzle.count("0"),) * 2
        swapped = solution[1] + solution[0] + solution[2:]
        assert not maths.sudoku_solved(puzzle, swapped) and not maths.sudoku_solved(puzzle, solution[:-1])
    assert maths.sudoku_cells("0100", "2134", "2") == (1, 3)
    with pytest.raises(ValueError, match="has 16 or 81 cells; this has 9"):
        maths.sudoku_solved("0" * 9, "1" * 9)


def test_a_large_sudoku() -> None:
    row = "123456789"
    grid = "".join(row[3 * (i % 3) + i // 3 :] + row[: 3 * (i % 3) + i // 3] for i in range(9))
    assert maths.sudoku_solved("0" * 81, grid)
    # rows and columns alone do not make one
    assert not maths.sudoku_solved("0" * 81, "".join(row[i:] + row[:i] for i in range(9)))


@pytest.mark.parametrize("name", ["cd3", "cd4"])
def test_steps_of_the_data_reach_their_targets(shared: Path, name: str) -> None:
    text = (shared / f"data/sudoku_countdown/dream/{name}_test.jsonl").read_text(encoding="utf-8")
    for row in map(json.loads, text.splitlines()):
        *numbers, target = map(int, row["input"].split(","))
        assert maths.countdown_steps_right(numbers, target, row["output"]), row
        assert not maths.countdown_steps_right(numbers, target + 1, row["output"])
        assert not maths.countdown_steps_right([*numbers[1:], numbers[0] + 1], target, row["output"])


@pytest.mark.parametrize(
    ("numbers", "target", "expression", "right"),
    [
        ([49, 55, 53], 51, "49 + 55 - 53", True),
        ([1, 3, 4, 6], 24, "6/(1-3/4)", True),  # exact only in fractions
        ([3, 7], 21, "3*7", True),
        ([3, 7], 10, "7+3+0", False),
        ([3, 3], 6, "3+3", True),
        ([3, 7], 3**7, "3**7", False),
        ([9, 9, 9], 1, "9**9**9", False),
        ([1, 0], 0, "1/0", False),
        ([1], 1, "__import__('os') or 1", False),
        ([1], 1, "(" * 5000 + "1" + ")" * 5000, False),
    ],
)
def test_countdown(numbers: list[int], target: int, expression: str, right: bool) -> None:
    assert maths.countdown_right(numbers, target, expression) is right


def test_countdown_answers_are_found() -> None:
    assert maths.countdown_answer(r"so \boxed{3 \times 7 = 21}") == "3 * 7"
    assert maths.countdown_answer("<answer>(8 ÷ 2) × 3</answer>") == "(8 / 2) * 3"
    assert maths.arithmetic("-(1 + 2) * 0.5") == Fraction(-3, 2)
