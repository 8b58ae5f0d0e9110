"""Four tasks whose answers can be checked, out of a seed: sums, look-ups in tables, sudoku 4 x 4, stories.

Sums and sudoku are written in characters, tables and stories in the tokens of a model. Which split a question belongs
to is read off the question itself, so that two splits share none. Knows no network.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, islice, permutations
from random import Random
from typing import Literal

from unmask.data.tables import TableOptions, make_tables, serialise

Split = Literal["train", "test"]
TEST_SHARE = 16  # one question in so many is a test question
SIDE = 4
TERMS = 24
CLUES = (3, 8)
ASKED = 3


@dataclass(frozen=True)
class Question:
    """A question and one right answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """A task with questions.

    Attributes:
        name: as in the tables.
        canvas: tokens to be written.
        draw: questions of a split, without end.
        is_right: whether a text answers the question.
    """

    name: str
    canvas: int
    draw: Callable[[Split, int], Iterator[Question]]
    is_right: Callable[[Question, str], bool]

    def some(self, split: Split, count: int, seed: int) -> list[Question]:
        """The first questions of a split."""
        return list(islice(self.draw(split, seed), count))


def split_of(prompt: str) -> Split:
    """The split that a question belongs to, whatever the seed."""
    return "test" if zlib.crc32(prompt.encode()) % TEST_SHARE == 0 else "train"


def sums(split: Split, seed: int) -> Iterator[Question]:
    """Digits to be added up; the answer has the last digit of the total after each: 384...= 315...

    Last digits only: a whole total can also be guessed from the question, roughly at first, then better. Half of the
    models trained on those began so, never looked at the total before, and were right too rarely.
    """
    return _of_split(split, Random(f"sums/{split}/{seed}"), sum_question)


def sum_question(random: Random) -> Question:
    """One question about a sum."""
    terms = [random.randint(1, 8) for _ in range(TERMS)]
    return Question("".join(map(str, terms)) + "=", "".join(str(total % 10) for total in accumulate(terms)))


def is_right_sum(question: Question, text: str) -> bool:
    """Whether all totals are right."""
    return text == question.answer


def sudokus(split: Split, seed: int) -> Iterator[Question]:
    """A few clues of a grid of 4 x 4, row by row, dots elsewhere; the answer is a whole grid: often one of several."""
    return _of_split(split, Random(f"sudoku/{split}/{seed}"), sudoku_question)


def sudoku_question(random: Random) -> Question:
    """One grid, most of it hidden."""
    grid = random.choice(grids())
    shown = set(random.sample(range(SIDE * SIDE), random.randint(*CLUES)))
    return Question("".join(cell if place in shown else "." for place, cell in enumerate(grid)) + "=", grid)


def is_right_sudoku(question: Question, text: str) -> bool:
    """Whether a grid keeps all clues and has every digit once in each row, column and box."""
    if len(text) != SIDE * SIDE:
        return False
    keeps = all(clue in (".", cell) for clue, cell in zip(question.prompt, text, strict=False))
    return keeps and all("".join(sorted(text[place] for place in unit)) == "1234" for unit in units())


@cache
def units() -> tuple[tuple[int, ...], ...]:
    """The places of each row, column and box."""
    rows = [tuple(range(row * SIDE, row * SIDE + SIDE)) for row in range(SIDE)]
    columns = [tuple(range(column, SIDE * SIDE, SIDE)) for column in range(SIDE)]
    boxes = [(corner, corner + 1, corner + SIDE, corner + SIDE + 1) for corner in (0, 2, 8, 10)]
    return (*rows, *columns, *boxes)


@cache
def grids() -> tuple[str, ...]:
    """All full grids, in order: rows are permutations, one below the other."""
    rows = ["".join(order) for order in permutations("1234")]
    found = [""]
    for _ in range(SIDE):
        found = [grid + row for grid in found for row in rows if _agree(grid + row)]
    return tuple(found)


def _agree(part: str) -> bool:
    """Whether no digit is twice in a unit of a grid that is not full yet."""
    filled = [[part[place] for place in unit if place < len(part)] for unit in units()]
    return all(len(set(cells)) == len(cells) for cells in filled)


def look_ups(split: Split, seed: int) -> Iterator[Question]:
    """A table, one of its columns and three of its rows, in any order; the answer has each with its value."""
    options = TableOptions(seed=seed, rows=(3, 5), columns=(1, 2))
    random = Random(f"look-ups/{split}/{seed}")
    for table in make_tables(options, split=split):
        column = random.choice(table.columns)
        keys = random.sample(table.keys, ASKED)
        values = dict(zip(table.keys, table.cells(column), strict=True))
        asked = f"{serialise(table)}\n\nSay the {column.name} of {', '.join(keys)}."
        yield Question(asked, ", ".join(f"{key} {values[key]}" for key in keys))


def is_right_look_up(question: Question, text: str) -> bool:
    """Whether all values are right."""
    return text.strip() == question.answer


def stories(texts: Sequence[str], split: Split) -> Iterator[Question]:
    """Stories, to be gone on with; the answer is the whole story."""
    return (Question(text, text) for text in texts if split_of(text) == split)


def _of_split(split: Split, random: Random, make: Callable[[Random], Question]) -> Iterator[Question]:
    while True:
        question = make(random)
        if split_of(question.prompt) == split:
            yield question


CHECKED = {
    task.name: task
    for task in (
        Task("sums", TERMS, sums, is_right_sum),
        Task("sudoku", 16, sudokus, is_right_sudoku),
        Task("tables", 24, look_ups, is_right_look_up),
    )
}
