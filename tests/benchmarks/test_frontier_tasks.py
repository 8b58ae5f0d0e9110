"""The frontier's tasks: right answers are right, wrong ones are not, splits share nothing."""

from __future__ import annotations

import itertools
import random

import pytest
from benchmarks.frontier.tasks import CHECKED, Question, grids, is_right_sudoku, split_of


def solve(clues: str) -> list[str]:
    """All solutions of a grid, cell by cell; shares nothing with the task."""
    place = clues.find(".")
    if place < 0:
        return [clues]
    row, column = divmod(place, 4)
    taken = set()
    for other, cell in enumerate(clues):
        there = divmod(other, 4)
        same_box = (there[0] // 2, there[1] // 2) == (row // 2, column // 2)
        if there[0] == row or there[1] == column or same_box:
            taken.add(cell)
    found = []
    for digit in "1234":
        if digit not in taken:
            found += solve(clues[:place] + digit + clues[place + 1 :])
    return found


def test_grids_are_all_solutions_of_the_empty_grid() -> None:
    assert sorted(grids()) == sorted(solve("." * 16))
    assert len(grids()) == 288  # known number of sudoku grids of 4 x 4


@pytest.mark.parametrize("seed", range(5))
def test_a_grid_is_right_exactly_if_a_solver_finds_it(seed: int) -> None:
    question = CHECKED["sudoku"].some("test", 1, seed)[0]
    solutions = set(solve(question.prompt[:16]))
    assert question.answer in solutions
    chance = random.Random(seed)
    near = {grid[:at] + digit + grid[at + 1 :] for grid in solutions for at in range(16) for digit in "1234"}
    far = {"".join(chance.choices("1234.", k=16)) for _ in range(100)}
    for text in near | far | set(grids()) | {"", "1234", question.answer + "1"}:
        assert is_right_sudoku(question, text) == (text in solutions)


def test_a_clue_may_not_change() -> None:
    question = Question("1" + "." * 15 + "=", "")
    right = [grid for grid in grids() if is_right_sudoku(question, grid)]
    assert len(right) == 288 / 4
    assert {grid[0] for grid in right} == {"1"}


def test_totals_are_those_of_the_digits() -> None:
    for question in CHECKED["sums"].some("train", 50, 1):
        digits, lasts = map(int, question.prompt.removesuffix("=")), list(map(int, question.answer))
        first, *others = digits
        assert lasts[0] == first
        # from one to the next by as much as the digit, less 10 where it goes over
        steps = [after - before for before, after in itertools.pairwise(lasts)]
        assert all(step in (digit, digit - 10) for step, digit in zip(steps, others, strict=True))
        assert question.answer[-1] == str(first + sum(others))[-1]
        assert CHECKED["sums"].is_right(question, question.answer)
        assert not CHECKED["sums"].is_right(question, question.answer[:-1])


def test_look_ups_are_read_off_the_table() -> None:
    for question in CHECKED["tables"].some("test", 30, 2):
        table, asked = question.prompt.split("\n\n")
        header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
        column, _, keys = asked.removeprefix("Say the ").removesuffix(".").partition(" of ")
        while column not in header:  # a column's name may have an "of" of its own
            more, _, keys = keys.partition(" of ")
            column = f"{column} of {more}"
        values = {row[0]: row[header.index(column)] for row in rows}
        said = ", ".join(f"{key} {values[key]}" for key in keys.split(", "))
        assert question.answer == said
        assert CHECKED["tables"].is_right(question, f" {said}")
        assert not CHECKED["tables"].is_right(question, said.replace(values[keys.split(", ")[0]], "?"))


@pytest.mark.parametrize("name", list(CHECKED))
def test_splits_share_no_question_and_a_seed_gives_the_same_again(name: str) -> None:
    task = CHECKED[name]
    learned, asked = task.some("train", 300, 0), task.some("test", 60, 0)
    assert not {question.prompt for question in learned} & {question.prompt for question in asked}
    assert asked == task.some("test", 60, 0)
    assert asked != task.some("test", 60, 1)


def test_a_story_is_in_one_split() -> None:
    assert {split_of(f"story {number}") for number in range(200)} == {"train", "test"}
