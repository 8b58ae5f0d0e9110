"""Questions whose answer is one of few: the model does not write, each choice is scored by how likely it is.

Knows records and a model; where its scores come from is in `DiffusionLM.log_likelihoods`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, hypot

from unmask.errors import ConfigError, DataError
from unmask.evaluation.answer_scores import Record, gold_of
from unmask.evaluation.fitting import fitted
from unmask.evaluation.scores import exact_match
from unmask.evaluation.tables import Progress, TableResults, batches, case_of, opened
from unmask.generation.player import finite
from unmask.lm import DiffusionLM

MOST = 10
# what stands for a question that says nothing (Zhao et al. 2021, Calibrate Before Use)
EMPTY_QUESTION = "N/A"
_TOGETHER = 16
# nats and their standard error, by choice; of one sample the error is not known
Nats = dict[str, list[float]]


@dataclass(frozen=True)
class ChoiceSettings:
    """How answers are chosen.

    Attributes:
        choices: the possible answers.
        calibrate: from the log-likelihood of each choice take away that of the same choice after a question that says
            nothing, so that a word which the model likes anywhere has no advantage.
        samples, seed, batch_size: see `DiffusionLM.log_likelihoods`.
    """

    choices: tuple[str, ...]
    calibrate: bool = False
    samples: int = 32
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        if len(set(self.choices)) < 2 or not all(choice.strip() for choice in self.choices):
            raise ConfigError(f"choices are {list(self.choices)}; give two or more different answers: yes,no")


def right_answers(records: Sequence[Record]) -> tuple[str, ...]:
    """The different right answers of the records, sorted: the choices where none are named.

    Raises:
        DataError: there are too many, or only one.
    """
    found = sorted({gold_of(record) for record in records})
    if not 2 <= len(found) <= MOST:
        raise DataError(
            f"scoring by likelihood chooses from few answers, and these questions have {len(found):,} different right "
            f"ones; 2 to {MOST} can be. Name the choices, or let the model write its answers."
        )
    return tuple(found)


def choose_answers(
    lm: DiffusionLM,
    records: Sequence[Record],
    settings: ChoiceSettings,
    *,
    cases_file: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> TableResults:
    """Take the likeliest choice as the answer to each record, and score it.

    Metrics of a case are `em`, and `probability`: that of the right answer, if one of the choices must be it. Of a
    diffusion model both rest on bounds, which are exact for choices of one token.

    Args:
        lm: the model.
        records, cases_file, progress: as for `evaluate_tables`.
        settings: see there.

    Raises:
        ConfigError, DataError, ResourceError: as `evaluate_tables`, and as `DiffusionLM.log_likelihoods`.
    """
    # how many copies share a forward changes nothing
    how = {name: value for name, value in asdict(settings).items() if name != "batch_size"}
    journal, keys = opened(lm, records, ["likelihood", how], cases_file)
    left = [number for number, key in enumerate(keys) if key not in journal.cases]
    scorer = _Scorer(lm, settings)
    if progress:
        progress(len(journal.cases), len(records))
    for batch in batches(left, _TOGETHER):
        prompts = [fitted(lm, records[number], scorer.longest) for number in batch]
        for number, (_, lost), found in zip(batch, prompts, scorer.of([ids for ids, _ in prompts]), strict=True):
            prediction = _likeliest(found or {})
            case = case_of(
                records[number],
                number,
                prediction,
                _metrics(gold_of(records[number]), prediction, found),
                rows_left_out=lost,
                finish_reason="stop" if found else "too_long",
                choices=finite(found),
            )
            journal.add(keys[number], case)
        if progress:
            progress(len(journal.cases), len(records))
    return TableResults(journal.close())


def _likeliest(scores: Nats) -> str:
    """The first of equals."""
    return max(scores, key=lambda choice: scores[choice][0], default="")


def _metrics(gold: str, prediction: str, scores: Nats | None) -> dict[str, float]:
    if not scores:
        return {"em": 0.0, "probability": 0.0}
    best = max(nats for nats, _ in scores.values())
    parts = {choice: exp(nats - best) for choice, (nats, _) in scores.items()}
    right = sum(part for choice, part in parts.items() if exact_match(gold, choice))
    return {"em": exact_match(gold, prediction), "probability": right / sum(parts.values())}


class _Scorer:
    """Scores of all choices after a prompt."""

    def __init__(self, lm: DiffusionLM, settings: ChoiceSettings) -> None:
        self.lm, self.settings = lm, settings
        ids = [lm.tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in settings.choices]
        self.longest = max(len(one) for one in ids)
        self._targets: list[list[int]] = ids
        self._empty: list[list[float]] | None = None

    def of(self, prompts: Sequence[list[int] | None]) -> list[Nats | None]:
        """Of each prompt; None where there is none."""
        found = iter(self._nats([ids for ids in prompts if ids is not None]))
        return [None if ids is None else dict(zip(self.settings.choices, next(found), strict=True)) for ids in prompts]

    def _nats(self, prompts: Sequence[list[int]]) -> list[list[list[float]]]:
        """Score and standard error by prompt and choice."""
        scores = self._uncalibrated(prompts)
        if not self.settings.calibrate:
            return scores
        if self._empty is None:
            self._empty = self._uncalibrated([self.lm.encode([{"role": "user", "content": EMPTY_QUESTION}])])[0]
        return [
            [
                [one - free, hypot(error, free_error)]
                for (one, error), (free, free_error) in zip(row, self._empty, strict=True)
            ]
            for row in scores
        ]

    def _uncalibrated(self, prompts: Sequence[list[int]]) -> list[list[list[float]]]:
        pairs = [(ids, target) for ids in prompts for target in self._targets]
        how = self.settings
        found = iter(self.lm.log_likelihoods(pairs, samples=how.samples, seed=how.seed, batch_size=how.batch_size))
        return [[[one.mean, one.stderr] for _, one in zip(self._targets, found, strict=False)] for _ in prompts]
