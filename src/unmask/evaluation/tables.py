"""Questions about tables, or any conversations: a model answers, the answers are scored and counted.

Knows records and a model; reading datasets, choosing models and writing reports are for others.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unmask.data.chat import prompt_ids
from unmask.data.table_text import read_table, shorten
from unmask.errors import DataError
from unmask.evaluation.cases import Case, CasesFile
from unmask.evaluation.intervals import bootstrap, wilson
from unmask.evaluation.scores import denotation_accuracy, exact_match, token_f1
from unmask.generation.options import GenerationOptions
from unmask.lm import DiffusionLM
from unmask.lm.attention import own_blocks
from unmask.lm.identity import fingerprint

Record = Mapping[str, Any]
Progress = Callable[[int, int], None]
METRICS = ("em", "f1", "denotation")
_ROWS = ((5, "1-5"), (10, "6-10"), (20, "11-20"), (50, "21-50"))
_WORDS = ((1, "1"), (3, "2-3"), (7, "4-7"))


@dataclass(frozen=True)
class TableResults:
    """All cases, in the order of the records, and their figures."""

    cases: list[Case] = field(default_factory=list)

    @property
    def totals(self) -> dict[str, Any]:
        """`count`, and mean and 95 % interval of each metric."""
        return figures(self.cases)

    @property
    def breakdown(self) -> dict[str, dict[str, dict[str, Any]]]:
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
        cases_file: JSONL of cases, written as they come; those that it holds already are not asked again.
        progress: called with how many questions are done, and of how many.

    Raises:
        DataError: a record is no conversation with an answer.
        ConfigError: `cases_file` holds cases of another model, other records or settings.
        ResourceError: it cannot be written.
    """
    options = options or own_blocks(GenerationOptions(max_new_tokens=32, block_size=32, steps=32), lm.model.facts)
    for number, record in enumerate(records):
        _check(record, number)
    stamp = json.dumps([fingerprint(lm), asdict(options)], default=str)
    keys = [_key(stamp, record, number) for number, record in enumerate(records)]
    journal = CasesFile(None if cases_file is None else Path(cases_file), keys)
    asked = _Asked(lm, options)
    left = [number for number, key in enumerate(keys) if key not in journal.cases]
    waiting = sorted(((number, *asked.fitted(records[number])) for number in left), key=lambda item: len(item[1] or ()))
    _tell(progress, len(records) - len(waiting), len(records))
    for batch in _batches(waiting, batch_size):
        answers = asked.answers([(number, ids) for number, ids, _ in batch])
        for (number, _, lost), (text, ended) in zip(batch, answers, strict=True):
            journal.add(keys[number], score(records[number], number, text, rows_left_out=lost, finish_reason=ended))
        _tell(progress, len(journal.cases), len(records))
    return TableResults(journal.close())


def score_predictions(
    records: Sequence[Record], predictions: Sequence[str], *, cases_file: str | os.PathLike[str] | None = None
) -> TableResults:
    """Score answers that are there already.

    Args:
        records: as for `evaluate_tables`.
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
        journal.cases[key] = score(record, number, text)
    return TableResults(journal.close())


def score(record: Record, number: int, prediction: str, *, rows_left_out: int = 0, finish_reason: str = "stop") -> Case:
    """The case of one record; `number` stands for an id where there is none."""
    gold, asked = record["messages"][-1]["content"].strip(), _last_question(record)
    metrics = {"em": exact_match(gold, prediction), "f1": token_f1(gold, prediction)}
    if record.get("source") == "wikitablequestions" and record.get("answers"):
        metrics["denotation"] = denotation_accuracy(record["answers"], prediction, record.get("canonical"))
    table = read_table(asked)
    return Case(
        id=str(record.get("id", number)),
        kind=str(record.get("kind", "")),
        source=str(record.get("source", "")),
        question=str(record.get("question") or asked),
        gold=gold,
        prediction=prediction,
        metrics=metrics,
        table_rows=None if table is None else len(table.rows) - rows_left_out,
        rows_left_out=rows_left_out,
        finish_reason=finish_reason,
    )


def figures(cases: Sequence[Case]) -> dict[str, Any]:
    """`count`, and of each metric that some cases have its `count`, `mean`, and `low` and `high` of the interval."""
    found: dict[str, Any] = {"count": len(cases)}
    for name in METRICS:
        values = [case.metrics[name] for case in cases if name in case.metrics]
        if values:
            # a share of right answers has an interval of its own
            low, high = bootstrap(values) if name == "f1" else wilson(sum(values), len(values))
            found[name] = {"count": len(values), "mean": sum(values) / len(values), "low": low, "high": high}
    return found


class _Asked:
    """A model that is asked in batches."""

    def __init__(self, lm: DiffusionLM, options: GenerationOptions) -> None:
        self.lm, self.options = lm, options
        self.room = lm.model.facts.shape.max_length - options.max_new_tokens

    def fitted(self, record: Record) -> tuple[list[int] | None, int]:
        """The prompt's ids and how many rows of its table were left out for want of room; None: it cannot fit."""
        *before, last = record["messages"][:-1]

        def ids(text: str) -> list[int]:
            return prompt_ids([*before, {**last, "content": text}], self.lm.tokenizer)

        whole = ids(last["content"])
        if len(whole) <= self.room:
            return whole, 0
        found = shorten(last["content"], lambda text: len(ids(text)) <= self.room)
        return (None, 0) if found is None else (ids(found[0]), found[1])

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


def _last_question(record: Record) -> str:
    return str(record["messages"][-2]["content"])


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _grouped(
    cases: Sequence[Case], name_of: Callable[[Case], str], order: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
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
