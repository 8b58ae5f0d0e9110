"""Questions about tables, or any conversations: a model answers, the answers are scored and counted.

Knows records and a model; reading datasets, choosing models and writing reports are for others.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unmask.data.table_text import read_table
from unmask.errors import DataError
from unmask.evaluation.answer_scores import Record, answer_metrics, check_measures, figures, gold_of
from unmask.evaluation.cases import Case, CasesFile
from unmask.evaluation.fitting import fitted
from unmask.evaluation.report import Metric
from unmask.generation.options import GenerationOptions
from unmask.lm import DiffusionLM
from unmask.lm.attention import own_blocks
from unmask.lm.identity import fingerprint

Progress = Callable[[int, int], None]
_ROWS = ((5, "1-5"), (10, "6-10"), (20, "11-20"), (50, "21-50"))
_WORDS = ((1, "1"), (3, "2-3"), (7, "4-7"))


@dataclass(frozen=True)
class TableResults:
    """All cases, in the order of the records, and their figures."""

    cases: list[Case] = field(default_factory=list)

    @property
    def totals(self) -> dict[str, Metric]:
        """Name -> mean, standard error and 95 % interval of each metric."""
        return figures(self.cases)

    @property
    def breakdown(self) -> dict[str, dict[str, dict[str, Metric]]]:
        """The same by kind of question, source, rows of the table and words of the answer, where there are several."""
        groups = {
            "kind": _grouped(self.cases, lambda case: case.kind),
            "source": _grouped(self.cases, lambda case: case.source),
            "table rows": _grouped(self.cases, _rows_group, [*(name for _, name in _ROWS), "51+", "no table"]),
            "answer words": _grouped(self.cases, _words_group, [*(name for _, name in _WORDS), "8+"]),
        }
        return {name: members for name, members in groups.items() if len(members) > 1}

    @property
    def notes(self) -> list[str]:
        """What did not go as it should: tables shortened, questions never asked, answers cut off."""
        shortened = sum(case.rows_left_out > 0 for case in self.cases)
        said = {
            "tables were shortened to fit the model: their last rows left out": shortened,
            "questions do not fit the model at all and count as wrong": self._ended("too_long"),
            "answers were cut off at max_new_tokens": self._ended("length"),
            "choices are closer than two standard errors of their masks": sum(map(_is_close, self.cases)),
        }
        return [f"{count:,} of {len(self.cases):,} {what}" for what, count in said.items() if count]

    def _ended(self, reason: str) -> int:
        return sum(case.finish_reason == reason for case in self.cases)


def evaluate_tables(
    lm: DiffusionLM,
    records: Sequence[Record],
    *,
    options: GenerationOptions | None = None,
    batch_size: int = 16,
    sentences: bool = False,
    cases_file: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> TableResults:
    """Let a model answer the last turn of every conversation, and score it.

    Args:
        lm: the model.
        records: `messages`, the last of the assistant being the right answer; `id`, `kind`, `source`, `question`,
            `answers` and `canonical` are used where they are there.
        options: of the generation; None: greedy, 32 new tokens in one block, or in those of a block-causal checkpoint.
        batch_size: questions answered together; changes no answer.
        sentences: count ROUGE and BLEU; FeTaQA's always are.
        cases_file: JSONL of cases, written as they come; those that it holds already are not asked again.
        progress: called with how many questions are done, and of how many.

    Raises:
        DataError: a record is no conversation with an answer.
        ConfigError: `cases_file` holds cases of another model, other records or settings.
        ResourceError: it cannot be written, or what counts ROUGE and BLEU is not installed.
    """
    options = options or own_blocks(GenerationOptions(max_new_tokens=32, block_size=32, steps=32), lm.model.facts)
    check_measures(records, sentences=sentences)
    journal, keys = opened(lm, records, [asdict(options), *(["sentences"] if sentences else [])], cases_file)
    asked = _Asked(lm, options)
    left = [number for number, key in enumerate(keys) if key not in journal.cases]
    waiting = sorted(
        ((number, *fitted(lm, records[number], options.max_new_tokens)) for number in left),
        key=lambda item: len(item[1] or ()),
    )
    _tell(progress, len(records) - len(waiting), len(records))
    for batch in batches(waiting, batch_size):
        answers = asked.answers([(number, ids) for number, ids, _ in batch])
        for (number, _, lost), (text, ended) in zip(batch, answers, strict=True):
            metrics = answer_metrics(records[number], text, sentences=sentences)
            case = case_of(records[number], number, text, metrics, rows_left_out=lost, finish_reason=ended)
            journal.add(keys[number], case)
        _tell(progress, len(journal.cases), len(records))
    return TableResults(journal.close())


def opened(
    lm: DiffusionLM, records: Sequence[Record], how: Sequence[Any], file: str | os.PathLike[str] | None
) -> tuple[CasesFile, list[str]]:
    """The cases that are there already, and the key of every record's case; `how` is all that its answer depends on.

    Raises:
        DataError, ConfigError, ResourceError: as `evaluate_tables`.
    """
    for number, record in enumerate(records):
        _check(record, number)
    stamp = json.dumps([fingerprint(lm), *how], default=str)
    keys = [_key(stamp, record, number) for number, record in enumerate(records)]
    return CasesFile(None if file is None else Path(file), keys), keys


def score_predictions(
    records: Sequence[Record],
    predictions: Sequence[str],
    *,
    sentences: bool = False,
    cases_file: str | os.PathLike[str] | None = None,
) -> TableResults:
    """Score answers that are there already.

    Args:
        records, sentences: as for `evaluate_tables`.
        predictions: one per record.
        cases_file: JSONL of cases to write.

    Raises:
        DataError, ConfigError, ResourceError: as `evaluate_tables`.
    """
    for number, record in enumerate(records):
        _check(record, number)
    pairs = list(zip(records, predictions, strict=True))
    keys = [_key(text, record, number) for number, (record, text) in enumerate(pairs)]
    journal = CasesFile(None if cases_file is None else Path(cases_file), keys)
    for number, (key, (record, text)) in enumerate(zip(keys, pairs, strict=True)):
        journal.cases[key] = case_of(record, number, text, answer_metrics(record, text, sentences=sentences))
    return TableResults(journal.close())


def case_of(
    record: Record,
    number: int,
    prediction: str,
    metrics: dict[str, float],
    *,
    rows_left_out: int = 0,
    finish_reason: str = "stop",
    choices: dict[str, list[float | None]] | None = None,
) -> Case:
    """The case of one record; `number` stands for an id where there is none."""
    asked = str(record["messages"][-2]["content"])
    table = read_table(asked)
    return Case(
        id=str(record.get("id", number)),
        kind=str(record.get("kind", "")),
        source=str(record.get("source", "")),
        question=str(record.get("question") or asked),
        gold=gold_of(record),
        prediction=prediction,
        metrics=metrics,
        table_rows=None if table is None else len(table.rows) - rows_left_out,
        rows_left_out=rows_left_out,
        finish_reason=finish_reason,
        choices=choices,
    )


class _Asked:
    """A model that is asked in batches."""

    def __init__(self, lm: DiffusionLM, options: GenerationOptions) -> None:
        self.lm, self.options = lm, options

    def answers(self, batch: Sequence[tuple[int, list[int] | None]]) -> list[tuple[str, str]]:
        """Answer and finish reason for each (number, ids)."""
        askable = [(number, ids) for number, ids in batch if ids is not None]
        if not askable:
            return [("", "too_long") for _ in batch]
        numbers, prompts = zip(*askable, strict=True)
        seeds = [self.options.seed + number for number in numbers]
        results = self.lm.generate(list(prompts), self.options, seeds=seeds)
        given = {
            number: (result.text.strip(), result.finish_reason) for number, result in zip(numbers, results, strict=True)
        }
        return [given.get(number, ("", "too_long")) for number, _ in batch]


def _key(stamp: str, record: Record, number: int) -> str:
    asked = [stamp, number, record["messages"], record.get("answers"), record.get("canonical")]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _check(record: Record, number: int) -> None:
    messages = record.get("messages")
    if not isinstance(messages, list) or len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise DataError(f"record {number} has no question with an answer of the assistant after it in its messages.")
    answers, canonical = record.get("answers") or [], record.get("canonical")
    if canonical and answers and len(canonical) != len(answers):
        raise DataError(
            f"record {number}: canonical has {len(canonical)} texts and answers {len(answers)}; they go in pairs."
        )


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items, `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _is_close(case: Case) -> bool:
    """Whether the two best choices might change places, had other masks been drawn."""
    if case.choices is None or len(case.choices) < 2:
        return False
    # what is not known is null in a file of cases
    scores = [[math.nan if value is None else value for value in found] for found in case.choices.values()]
    (one, one_error), (two, two_error) = sorted(scores, reverse=True)[:2]
    return one - two < 2 * math.hypot(one_error, two_error)


def _grouped(
    cases: Sequence[Case], name_of: Callable[[Case], str], order: Sequence[str] = ()
) -> dict[str, dict[str, Metric]]:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(name_of(case), []).append(case)
    names = sorted(groups, key=lambda name: (order.index(name) if name in order else -1, name))
    return {name or "other": figures(groups[name]) for name in names}


def _rows_group(case: Case) -> str:
    if case.table_rows is None:
        return "no table"
    return next((name for most, name in _ROWS if case.table_rows <= most), "51+")


def _words_group(case: Case) -> str:
    return next((name for most, name in _WORDS if len(case.gold.split()) <= most), "8+")
