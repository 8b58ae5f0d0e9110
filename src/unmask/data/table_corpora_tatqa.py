"""TAT-QA: questions about a table of a financial report and the paragraphs around it (Zhu et al. 2021).

Reads its files; how a question becomes a conversation is in `table_corpora`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unmask.data.table_corpora_files import Cells, CorpusFolder, read_json
from unmask.errors import DataError

_PLACES = ("dataset_raw/tatqa_dataset_*.json", "tatqa_dataset_*.json")
SCALES = ("thousand", "million", "billion", "percent")


@dataclass(frozen=True)
class TatQuestion:
    """A question.

    Attributes:
        id, table_id: in the corpus. cells: rows as wide as each other, the first standing for a header.
        text: the paragraphs in their order. question: see there.
        answers: texts, as the official scorer makes them of spans, numbers and counts.
        kind: span, multi-span, arithmetic or count.
        scale: what the answer counts: nothing, or one of `SCALES`.
    """

    id: str
    table_id: str
    cells: Cells
    text: str
    question: str
    answers: tuple[str, ...]
    kind: str
    scale: str


def read_tatqa(folder: CorpusFolder, split: str) -> Iterator[TatQuestion]:
    """The questions of a split in the order of its file.

    Raises:
        DataError: no such split, or a broken file.
    """
    path = folder.split_file(split, _PLACES)
    for number, entry in enumerate(read_json(path, list, "contexts with a table and questions"), 1):
        yield from _context(entry, f"{path}: context {number}")


def _context(entry: Any, where: str) -> Iterator[TatQuestion]:
    match entry:
        case {
            "table": {"uid": str(table_id), "table": list(rows)},
            "paragraphs": list(paragraphs),
            "questions": list(questions),
        } if rows and all(isinstance(row, list) and all(isinstance(cell, str) for cell in row) for row in rows):
            text = "\n".join(_ordered(paragraphs, where))
            cells = _even(rows)
        case _:
            raise DataError(f"{where}: expected a table of rows, paragraphs and questions. Copy the file again.")
    for place, asked in enumerate(questions, 1):
        yield _question(asked, table_id, cells, text, f"{where}, question {place}")


def _even(rows: list[list[str]]) -> Cells:
    """Rows as wide as the widest."""
    width = max(len(row) for row in rows)
    return [row + [""] * (width - len(row)) for row in rows]


def _ordered(paragraphs: list[Any], where: str) -> list[str]:
    try:
        return [str(entry["text"]) for entry in sorted(paragraphs, key=lambda entry: int(entry["order"]))]
    except (KeyError, TypeError, ValueError):
        raise DataError(f'{where}: every paragraph has "order" and "text". Copy the file again.') from None


def _question(asked: Any, table_id: str, cells: Cells, text: str, where: str) -> TatQuestion:
    match asked:
        case {
            "uid": str(name),
            "question": str(question),
            "answer": answer,
            "answer_type": str(kind),
            "scale": str(scale),
        } if scale in ("", *SCALES):
            return TatQuestion(name, table_id, cells, text, question, _answers(answer, kind, where), kind, scale)
    raise DataError(
        f"{where}: expected uid, question, answer, answer_type and scale ({', '.join(SCALES)}, or nothing). The file "
        "of the test split without answers cannot be scored: take test_gold."
    )


def _answers(answer: Any, kind: str, where: str) -> tuple[str, ...]:
    if isinstance(answer, list) and answer and all(isinstance(item, str) for item in answer):
        return tuple(answer)
    if isinstance(answer, str | int | float) and not isinstance(answer, bool):
        try:
            return (str(int(answer)) if kind == "count" else str(answer),)
        except ValueError:
            pass
    raise DataError(f'{where}: "answer" must be texts, or a number; got {answer!r}. Copy the file again.')
