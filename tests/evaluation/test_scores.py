"""Scores against values computed by hand, and against what the official scorer of WikiTableQuestions says."""

from __future__ import annotations

from pathlib import Path

import pytest

from unmask.data.table_corpora import corpus_examples
from unmask.evaluation.scores import denotation_accuracy, denotations_match, exact_match, normalise, token_f1


@pytest.mark.parametrize(
    ("answer", "bare"),
    [
        ("The  Cat, the dog; an owl!", "cat dog owl"),
        ("Theatre of a theme", "theatre of theme"),
        ("12,467", "12467"),
        ("U.S.A. -- A", "usa"),
        ("the", ""),
        ("北京", "北京"),
        ("co-op’s", "coop’s"),
        ("a\tb\n c", "b c"),
    ],
)
def test_normalise(answer: str, bare: str) -> None:
    assert normalise(answer) == bare


# precision and recall counted by hand
@pytest.mark.parametrize(
    ("gold", "given", "em", "f1"),
    [
        ("Paris", "paris.", 1, 1),
        ("the big red dog", "red dog", 0, 2 * 1 * (2 / 3) / (1 + 2 / 3)),
        ("a b b c", "b c c", 0, 2 * (2 / 3) * (2 / 3) / (2 / 3 + 2 / 3)),
        ("Oslo, Rome", "Rome, Oslo", 0, 1),
        ("yes", "no", 0, 0),
        ("", "", 1, 1),
        ("the", "an", 1, 1),
        ("", "x", 0, 0),
        ("x", "", 0, 0),
    ],
)
def test_exact_match_and_f1(gold: str, given: str, em: float, f1: float) -> None:
    assert exact_match(gold, given) == em
    assert token_f1(gold, given) == pytest.approx(f1)
    assert token_f1(given, gold) == pytest.approx(f1)


# verdicts of evaluator.py 1.0.2 of WikiTableQuestions
@pytest.mark.parametrize(
    ("gold", "canonical", "predicted", "verdict"),
    [
        (["12,467"], ["12467.0"], ["12467"], True),
        (["12,467"], None, ["12467"], False),
        (["12,467"], None, ["12,467"], True),
        (["10 years"], ["10.0"], ["10"], True),
        (["10 years"], ["10.0"], ["10 Years."], True),
        (["0.3"], ["0.3"], ["0.30000001"], True),
        (["0.3"], ["0.3"], ["0.3001"], False),
        (["nan"], ["nan"], ["NaN"], True),
        (["1e3"], None, ["1000"], True),
        (["January 1990"], ["1990-01-xx"], ["1990-01-xx"], True),
        (["January 1990"], ["1990-01-xx"], ["1990-1-xx"], True),
        (["January 12"], ["xx-01-12"], ["1990-01-12"], False),
        (["1990"], ["1990-xx-xx"], ["1990"], True),
        (["1990-13-01"], None, ["1990-13-01"], True),
        (["Beyoncé"], ["Beyoncé"], ["beyonce"], True),
        (["“Hello”"], ["“Hello”"], ['"hello"'], True),
        (['"Hello"'], ["x"], ["hello"], True),
        (["Rome (Italy)[2]*"], None, ["rome"], True),
        (["[1]"], None, [""], True),
        (["[note]"], None, ["note"], False),
        (["Rome*†"], None, ["Rome"], True),
        (["a–b"], None, ["a-b"], True),
        (["U.S."], None, ["U.S"], True),
        (["a", "b"], None, ["b", "a"], True),
        (["a", "b"], None, ["a", "b", "a"], True),
        (["a", "a"], None, ["a"], True),
        (["a", "b"], None, ["a"], False),
        (["a"], None, ["a", "b"], False),
        (["a"], None, [], False),
        (["1", "1.0"], None, ["1"], True),
        (["one", "1"], ["1.0", "1.0"], ["1"], True),
    ],
)
def test_denotations(gold: list[str], canonical: list[str] | None, predicted: list[str], verdict: bool) -> None:
    assert denotations_match(gold, predicted, canonical) is verdict


@pytest.mark.parametrize(
    ("gold", "prediction", "right"),
    [
        (["Bangkok, Thailand"], "bangkok, thailand", True),
        (["Bangkok, Thailand", "Lima, Peru"], "Lima, Peru, Bangkok, Thailand", True),
        (["Bangkok, Thailand", "Lima, Peru"], "Lima, Peru", False),
        (["Bangkok", "Thailand"], "Thailand, Bangkok, Thailand", True),
        (["a", "b"], "a,b", False),
        (["3"], "3.0", True),
        (["3"], "3, 4", False),
        (["3"], "", False),
    ],
)
def test_written_lists(gold: list[str], prediction: str, right: bool) -> None:
    assert denotation_accuracy(gold, prediction) == float(right)


def test_right_answers_of_the_released_corpus_are_right(shared: Path) -> None:
    folder = shared / "data/wikitablequestions"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    examples = list(corpus_examples("wikitablequestions", folder, "pristine-seen-tables"))
    assert all(example.canonical for example in examples)
    for example in examples:
        assert denotation_accuracy(example.answers, ", ".join(example.answers), example.canonical) == 1
        assert denotations_match(example.answers, example.canonical, example.canonical)
    others = [*examples[1:], examples[0]]
    agree = [
        denotations_match(one.answers, other.answers, one.canonical)
        for one, other in zip(examples, others, strict=True)
    ]
    # as the official scorer counts them
    assert sum(agree) == 35
