"""What is counted of a record's answer, by where the record comes from, and the figures of many answers.

Knows records and cases; no model and no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from unmask.evaluation.cases import Case
from unmask.evaluation.intervals import bootstrap, wilson
from unmask.evaluation.report import SHARE, Metric
from unmask.evaluation.scores import denotation_accuracy, exact_match, token_f1
from unmask.evaluation.sentences import check_installed, corpus_bleu, sentence_scores
from unmask.evaluation.tatqa import tatqa_score

Record = Mapping[str, Any]
# shares of right answers, which have an interval of their own
_RIGHT_OR_WRONG = ("em", "denotation", "tatqa_em", "scale")
# what says of a case whether it is right: the first of these that it has
_DECIDING = ("denotation", "tatqa_em", "em")


def gold_of(record: Record) -> str:
    """The right answer: the last turn."""
    return str(record["messages"][-1]["content"]).strip()


def check_measures(records: Sequence[Record], *, sentences: bool = False) -> None:
    """Raises ResourceError: what counts the ROUGE and BLEU of some record is not installed."""
    if any(_has_sentences(record, sentences) for record in records):
        check_installed()


def answer_metrics(record: Record, prediction: str, *, sentences: bool = False) -> dict[str, float]:
    """Figures of one answer, from 0 to 1.

    Of every record `em` and `f1`; of WikiTableQuestions `denotation`; of TAT-QA `tatqa_em`, `tatqa_f1` and `scale`; of
    FeTaQA, and where `sentences` are asked for, `rouge1`, `rouge2`, `rougeL` and `sentence_bleu`.

    Raises:
        ResourceError: ROUGE and BLEU are asked for and not installed.
    """
    gold, source, answers = gold_of(record), record.get("source"), record.get("answers")
    metrics = {"em": exact_match(gold, prediction), "f1": token_f1(gold, prediction)}
    if source == "wikitablequestions" and answers:
        metrics["denotation"] = denotation_accuracy(answers, prediction, record.get("canonical"))
    if source == "tatqa" and answers:
        score = tatqa_score(answers, record.get("scale", ""), record.get("kind", ""), prediction)
        metrics |= {"tatqa_em": score.em, "tatqa_f1": score.f1, "scale": score.scale}
    if _has_sentences(record, sentences):
        metrics |= sentence_scores(gold, prediction)
    return metrics


def _has_sentences(record: Record, asked_for: bool) -> bool:
    return asked_for or record.get("source") == "fetaqa"


def figures(cases: Sequence[Case]) -> dict[str, Metric]:
    """Mean, standard error and 95 % interval of each metric that some cases have; where sentences are counted, `bleu`.

    Intervals of shares of right answers are Wilson's, all others bootstrapped.
    """
    names = list(dict.fromkeys(name for case in cases for name in case.metrics))
    found = {name: _metric(name, [case.metrics[name] for case in cases if name in case.metrics]) for name in names}
    sentences = [case for case in cases if "sentence_bleu" in case.metrics]
    if sentences:
        found["bleu"] = corpus_bleu([case.gold for case in sentences], [case.prediction for case in sentences])
    return found


def is_right(case: Case) -> bool:
    """By the corpus's own measure, where it has one, else by exact match."""
    return next((case.metrics[name] == 1 for name in _DECIDING if name in case.metrics), False)


def _metric(name: str, values: Sequence[float]) -> Metric:
    count = len(values)
    low, high = wilson(sum(values), count) if name in _RIGHT_OR_WRONG else bootstrap(values)
    error = stdev(values) / count**0.5 if count > 1 else None
    return Metric(fmean(values), error, count, SHARE, low, high)
