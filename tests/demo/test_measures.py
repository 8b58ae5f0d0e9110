"""The demo's measures against models whose answers are known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from tests.tiny import write_checkpoint
from unmask.demo import measures
from unmask.demo.measures import Score, answers_right, blanked, bound_nats, facts_right, seconds_per_update
from unmask.lm import load


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return load(write_checkpoint(tmp_path_factory.mktemp("model")), device="cpu")


class Parrot:
    """Gives prepared answers."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def generate(self, asked, **_):
        return [SimpleNamespace(text=self.answers.pop(0)) for _ in asked]


def row(kind: str, answer: str):
    return {"kind": kind, "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]}


def test_answers_are_exact_fitting_or_neither() -> None:
    asked = [row("look-up", "Oslo"), row("look-up", "Rome"), row("look-up", "12"), row("verification", "yes")]
    learned = [row("look-up", "Oslo"), row("look-up", "Rome"), row("look-up", "7"), row("verification", "yes")]
    scores = answers_right(Parrot(" Oslo", "Oslo", "99", "Oslo"), asked, learned, 4)  # type: ignore[arg-type]
    assert scores == {"look-up": Score(right=1, asked=3, fitting=3), "verification": Score(right=0, asked=1, fitting=0)}
    scores = answers_right(Parrot("Oslo", "7", "Rome", "yes"), asked, learned, 4)  # type: ignore[arg-type]
    assert scores == {"look-up": Score(right=1, asked=3, fitting=1), "verification": Score(right=1, asked=1, fitting=1)}


def test_the_bound_of_a_model_that_knows_nothing_is_uniform(lm, monkeypatch) -> None:
    size = lm.model.facts.shape.vocab_size
    uniform = lambda ids, *, logits_at, targets: SimpleNamespace(nll=torch.full((len(targets),), math.log(size)))  # noqa: E731
    monkeypatch.setattr(type(lm.model), "__call__", lambda self, *args, **rest: uniform(*args, **rest))
    assert bound_nats(lm, [[5, 6, 7], [8] * 11]) == pytest.approx(math.log(size), rel=1e-6)


def test_a_blank_has_as_many_tokens_as_the_answer(lm) -> None:
    # the stand-in's tokens are bytes; the space before the answer is one
    assert blanked(lm, "It lies in", "Peru", "!") == "It lies in" + "[MASK]" * 5 + "!"


def test_facts_are_counted_by_their_exact_text(lm, monkeypatch) -> None:
    wanted = [f"{before} {answer}." for before, answer in measures.FACTS.values()]
    told = [SimpleNamespace(text=text) for text in [*wanted[:20], *("wrong" for _ in wanted[20:])]]
    monkeypatch.setattr(lm, "infill", lambda texts, **_: told)
    assert facts_right(lm) == Score(20, 54)
    assert facts_right(lm).share == pytest.approx(20 / 54)


def test_timing_leaves_the_model_as_it_was(lm) -> None:
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    assert seconds_per_update(lm, 2, 16) > 0
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())
    assert all(weight.grad is None for weight in lm.model.parameters())
