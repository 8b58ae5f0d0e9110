"""What the demo measures: the bound on unseen texts, facts filled in, questions answered exactly, seconds per step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unmask.data.table_topics import COUNTRY_OF, KIND_OF
from unmask.lm import BLANK, DiffusionLM
from unmask.objectives.estimators import LikelihoodEstimator

COPIES = 16  # noised copies of each text
BATCH = 48
FACTS = {key: (f"{key} lies in", value) for key, value in COUNTRY_OF.items()} | {
    key: (f"The {key} counts as a kind of", value) for key, value in KIND_OF.items()
}


@dataclass(frozen=True)
class Score:
    """Right answers out of those asked for; `fitting` ones are at least of the right kind, where that was looked at."""

    right: int
    asked: int
    fitting: int = 0

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.right / max(self.asked, 1)


def bound_nats(lm: DiffusionLM, documents: Sequence[Sequence[int]]) -> float:
    """Upper bound of the negative log-likelihood of whole documents, nats per token; the same noise at every call."""
    assert isinstance(lm.tokenizer.mask_token_id, int)
    estimate = LikelihoodEstimator(lm.tokenizer.mask_token_id, samples=COPIES, batch_size=COPIES)
    nothing = torch.zeros(0, dtype=torch.int64)
    lm.model.eval()
    total = sum(estimate(lm.model, nothing, torch.tensor(list(ids))).mean for ids in documents)
    return -total / sum(len(ids) for ids in documents)


def blanked(lm: DiffusionLM, before: str, answer: str, after: str = ".") -> str:
    """A text with as many blanks in its middle as `answer` has tokens."""
    tokens = len(lm.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"])
    return f"{before}{BLANK * tokens}{after}"


def facts_right(lm: DiffusionLM) -> Score:
    """How many sentences about where a city lies, or what an animal is, are filled in rightly."""
    texts = [blanked(lm, before, answer) for before, answer in FACTS.values()]
    filled = lm.infill(texts, steps=8)
    wanted = [f"{before} {answer}." for before, answer in FACTS.values()]
    right = sum(result.text == text for result, text in zip(filled, wanted, strict=True))
    return Score(right, len(wanted))


def answers_right(
    lm: DiffusionLM, rows: Sequence[dict[str, Any]], learned: Sequence[dict[str, Any]], max_new_tokens: int
) -> dict[str, Score]:
    """Answers to the questions of a file of conversations, by kind of question.

    Args:
        lm: who is asked.
        rows: the conversations.
        learned: those of the training file: an answer fits that some question of the same kind has there, or that is
            a number as the right one is.
        max_new_tokens: longest answer.
    """
    known = {(row["kind"], row["messages"][-1]["content"]) for row in learned}
    scores: dict[str, Score] = {}
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        asked = [row["messages"][:-1] for row in part]
        answers = lm.generate(asked, max_new_tokens=max_new_tokens, block_size=max_new_tokens, steps=max_new_tokens)
        for row, answer in zip(part, answers, strict=True):
            given, right = answer.text.strip(), row["messages"][-1]["content"]
            fits = given.isdigit() if right.isdigit() else (row["kind"], given) in known and not given.isdigit()
            score = scores.get(row["kind"], Score(0, 0))
            scores[row["kind"]] = Score(score.right + (given == right), score.asked + 1, score.fitting + fits)
    return dict(sorted(scores.items()))


def seconds_per_update(lm: DiffusionLM, rows: int, length: int) -> float:
    """What a training update of this model costs here; the model is left as it was."""
    ids = torch.zeros((rows, length), dtype=torch.int64)
    places = torch.arange(0, ids.numel(), 2)
    fastest = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        output = lm.model(ids, logits_at=places, targets=ids.flatten()[places])
        output.nll.mean().backward()
        fastest = min(fastest, time.perf_counter() - began)
    lm.model.zero_grad(set_to_none=True)
    return fastest
