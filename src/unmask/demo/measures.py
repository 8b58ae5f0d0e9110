"""What the demo measures: values filled in below a table, questions answered, seconds of an update."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unmask.data.table_queries import KINDS
from unmask.demo.materials import Statement
from unmask.evaluation.baselines import BASELINES
from unmask.evaluation.cases import Case
from unmask.evaluation.intervals import wilson
from unmask.evaluation.tables import evaluate_tables, score_predictions
from unmask.generation.options import GenerationOptions
from unmask.lm import DiffusionLM

BATCH = 32
ALL = "all"
# the longest answers are lists of names
ANSWER = GenerationOptions(max_new_tokens=12, block_size=12, steps=12)
FILLING_STEPS = 4


@dataclass(frozen=True)
class Score:
    """Right answers out of those asked for."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.right / max(self.asked, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """What holds the share of all questions of the kind 95 times in 100."""
        return wilson(self.right, self.asked) if self.asked else (0.0, 1.0)


def filled(lm: DiffusionLM, statements: Sequence[Statement]) -> list[str]:
    """The texts of the statements with what the model puts where the value is missing."""
    texts: list[str] = []
    for start in range(0, len(statements), BATCH):
        part = [each.blanked(lm) for each in statements[start : start + BATCH]]
        texts += [result.text for result in lm.infill(part, steps=FILLING_STEPS)]
    return texts


def filled_rightly(statements: Sequence[Statement], texts: Sequence[str]) -> Score:
    """How many of the texts are the statements."""
    return Score(sum(each.whole == text for each, text in zip(statements, texts, strict=True)), len(statements))


def answered(lm: DiffusionLM, questions: Sequence[dict[str, Any]], file: Path) -> list[Case]:
    """The answers to questions with their scores; kept in `file` as they come, so that none is asked twice."""
    return evaluate_tables(lm, questions, options=ANSWER, batch_size=BATCH, cases_file=file).cases


def by_kind(cases: Sequence[Case]) -> dict[str, Score]:
    """Exact matches by kind of question, and of all."""
    scores = {kind: _score([case for case in cases if case.kind == kind]) for kind in KINDS}
    return {kind: score for kind, score in scores.items() if score.asked} | {ALL: _score(cases)}


def baselines(questions: Sequence[dict[str, Any]]) -> dict[str, dict[str, Score]]:
    """What answers without a model would score: name of the baseline -> kind -> score."""
    return {name: by_kind(score_predictions(questions, answer(questions)).cases) for name, answer in BASELINES.items()}


def seconds_per_update(lm: DiffusionLM, rows: int, length: int) -> float:
    """What forward and backward of an update of all weights cost here; the model is left as it was."""
    ids = torch.zeros((rows, length), dtype=torch.int64)
    places = torch.arange(0, ids.numel(), 8)
    fastest = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        output = lm.model(ids, logits_at=places, targets=ids.flatten()[places])
        output.nll.mean().backward()
        fastest = min(fastest, time.perf_counter() - began)
    lm.model.zero_grad(set_to_none=True)
    return fastest


def _score(cases: Sequence[Case]) -> Score:
    return Score(int(sum(case.metrics["em"] for case in cases)), len(cases))
