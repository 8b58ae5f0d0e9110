"""Batches are the same whoever plans them; choices of a question are never parted, and nothing is too large."""

from __future__ import annotations

import random

from unmask.evaluation.planning import by_prompt, longest_first, planned, rivals
from unmask.evaluation.requests import Answers, Request


def choices(question: str, count: int, length: int = 30) -> list[Request]:
    """Of a question whose prompts differ too, as those of winogrande do."""
    return [Request("score", "p" * (n + 1), "t" * length, {"question": question, "choice": n}) for n in range(count)]


def test_choices_of_a_question_stay_together_and_a_batch_is_some_forwards() -> None:
    asked = [request for number in range(20) for request in choices(f"q{number}", 3)]
    asked += [Request("score", "", "t" * 30, number=number) for number in range(100)]
    random.Random(0).shuffle(asked)
    batches = list(by_prompt(asked, 4, 8, begins_alike=False))
    assert sorted(map(repr, asked)) == sorted(repr(request) for batch in batches for request in batch)
    of_question = [{rivals(request) for request in batch if request.settings} for batch in batches]
    assert sum(map(len, of_question)) == 20
    # eight forwards of four rows, eight rows each: a batch is full with four requests, or the choices after them
    assert max(len(batch) for batch in batches if batch[0].settings) <= 6
    assert max(map(len, batches)) <= 32


def test_short_targets_have_few_masks_and_share_a_batch() -> None:
    asked = [Request("score", f"p{number}", "t") for number in range(16)]
    assert [len(batch) for batch in by_prompt(asked, 4, 64, begins_alike=True)] == [16]


def test_batches_depend_on_what_is_asked_alone() -> None:
    asked = {f"key{number}": Request("score", "p" * number, "t" * 9) for number in range(30)}

    def plan(answers: Answers) -> list[list[str]]:
        order = list(asked.items())
        random.Random(len(answers.by_key)).shuffle(order)
        batches = planned(dict(order), answers, lambda requests: longest_first(requests, 4))
        return [[request.prompt for request in batch.requests] for batch in batches]

    first = plan(Answers(None))
    run = planned(asked, Answers(None), lambda requests: [requests])[0].run
    there = Answers(None)
    for number in (29, 3, 17):
        there.add(f"key{number}", [0.0, False], run)
    assert plan(there) == first
    of_others = Answers(None)
    of_others.add("key29", [0.0, False], "another")
    assert plan(of_others) != first and plan(of_others)[-1] == ["p" * 29]
