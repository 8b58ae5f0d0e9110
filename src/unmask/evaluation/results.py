"""Answers to questions in the form of all evaluations: figures beside those of answers that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unmask.evaluation.answer_scores import Record
from unmask.evaluation.baselines import BASELINES
from unmask.evaluation.report import Result
from unmask.evaluation.tables import TableResults, score_predictions

VERSION = 2
_INTERVALS = "Intervals at 95 %: Wilson's for shares of right answers, bootstrap for all else."


def result(results: TableResults, records: Sequence[Record], *, baselines: bool = True, **told: Any) -> Result:
    """What was found.

    Args:
        results: of the questions.
        records: the questions.
        baselines: ask those too, about the same.
        **told: data, model, settings, seed, seconds and notes of the result.
    """
    totals = results.totals
    others = {name: answer(records) for name, answer in BASELINES.items()} if baselines else {}
    sentences = "bleu" in totals
    compared = {name: score_predictions(records, answers, sentences=sentences) for name, answers in others.items()}
    # a metric that only the model's answers have, such as a probability, has no counterpart
    shown = {
        name: {metric: figure for metric, figure in found.totals.items() if metric in totals}
        for name, found in compared.items()
    }
    breakdown = {**({"baseline": shown} if shown else {}), **results.breakdown}
    notes = (*told.pop("notes", ()), *(f"{note}." for note in results.notes), _INTERVALS)
    return Result("tables", VERSION, metrics=totals, breakdown=breakdown, notes=notes, **told)
