"""Answers to TAT-QA's questions by the rules of its official scorer (Zhu et al. 2021): DROP's, with numbers and scales.

Texts in, numbers out; knows no model and no file.
"""

from __future__ import annotations

import itertools
import math
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unmask.evaluation.scores import without_articles

# the first of these that a word holds
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000, "percent": 0.01}
_WRITTEN_SCALE = re.compile(r"^(.*\S)\s+(thousand|million|billion|percent)\.?$", re.IGNORECASE | re.DOTALL)
_AROUND_NUMBERS = str.maketrans("", "", "'\"\\$€£¥%(),[]")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?|[+-]?\.\d+")
_NUMBER_WITH_WORD = re.compile(r"[\d.]+\s?[a-zA-Z]+")
_NEGATIVE, _PERCENT = re.compile(r"\([\d.\s]+\)"), re.compile(r"[\d.\s]+%")
_NUMERIC_KINDS = ("arithmetic", "count")
# beyond this many commas an answer is only taken whole or cut at all of them
_FEW = 6


@dataclass(frozen=True)
class TatScore:
    """How right an answer is: exact match and F1, numbers with their scale, and whether the scale alone is right."""

    em: float
    f1: float
    scale: float


def tatqa_score(gold: Sequence[str], gold_scale: str, kind: str, prediction: str) -> TatScore:
    """Score one written answer, as `-12.6 million` or `2019, 2018`.

    The official scorer takes answers as a list and their scale apart. Here a scale is the last word, or that word is
    part of the answer; the text may be cut at its commas into a list; and the best of these readings counts.

    Args:
        gold: the right answers. gold_scale: thousand, million, billion, percent or nothing.
        kind: span, multi-span, arithmetic or count; of the last two F1 is exact match.
        prediction: the answer given.
    """
    if not gold:
        return TatScore(0.0, 0.0, 0.0)
    readings = [(text, scale) for text, scale in {written_scale(prediction), (prediction.strip(), "")} if text]
    scores = (
        TatScore(*list_score(gold, gold_scale, kind, cut, scale), float(scale == gold_scale))
        for text, scale in readings
        for cut in _cuts(text)
    )
    return max(scores, key=lambda score: (score.em, score.f1, score.scale), default=TatScore(0.0, 0.0, 0.0))


def written_scale(text: str) -> tuple[str, str]:
    """An answer without the scale at its end, and the scale."""
    found = _WRITTEN_SCALE.match(text.strip())
    return (found[1], found[2].lower()) if found else (text.strip(), "")


def list_score(
    gold: Sequence[str], gold_scale: str, kind: str, predicted: Sequence[str], scale: str
) -> tuple[float, float]:
    """Exact match and F1 of a list of answers with its scale, as the official scorer gives them."""
    wanted, given = _joined(gold, gold_scale), [_joined(predicted, scale)]
    # 0.2342 without a scale may mean 23.42 percent, whose value it is: it is not rounded to two digits
    if len(predicted) == 1 and not scale and "%" not in predicted[0] and _is_number(predicted[0]):
        value = _value(predicted[0])
        given += [] if value is None else [f"{value:.4f}"]
    em, f1 = max(_compared(wanted, text) for text in given)
    return em, em if kind in _NUMERIC_KINDS else f1


def _cuts(text: str) -> Iterator[list[str]]:
    """Ways to cut a text at some of its commas."""
    pieces = text.split(", ")
    places = range(1, len(pieces))
    if len(pieces) > _FEW + 1:
        yield from ([text], pieces)
        return
    for count in range(len(pieces)):
        for chosen in itertools.combinations(places, count):
            edges = (0, *chosen, len(pieces))
            yield [", ".join(pieces[low:high]) for low, high in itertools.pairwise(edges)]


def _joined(answers: Sequence[str], scale: str) -> str:
    return " ".join(_with_scale(answer, scale) for answer in sorted(answers))


def _with_scale(answer: str, scale: str) -> str:
    """A number as its value in four digits, anything else with the scale behind it."""
    value = _value(answer) if _is_number(answer) else None
    if value is None:
        return f"{answer} {scale}" if scale else answer
    # a percentage that is written as one has its scale already
    return f"{value:.4f}" if "%" in answer else f"{round(value, 2) * _scale_of(scale):.4f}"


def _compared(wanted: str, given: str) -> tuple[float, float]:
    one, other = _normalised(wanted), _normalised(given)
    right, said = set(one.split()), set(other.split())
    shared = len(right & said)
    precision = shared / len(said) if said else 1.0
    recall = shared / len(right) if right else 1.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return float(one == other), round(f1, 2)


def _normalised(text: str) -> str:
    words = (_normal_word(word) for word in text.split(" "))
    return " ".join(word for word in words if word)


def _normal_word(word: str) -> str:
    low = word.lower()
    return without_articles(str(_value(low)) if _is_number(low) else low.translate(_PUNCTUATION))


def _is_number(text: str) -> bool:
    """A number, or a number and a scale behind it."""
    words = " ".join(word.translate(_AROUND_NUMBERS) for word in text.split()).split()
    try:
        is_number = bool(words) and not math.isnan(float(words[0]))
    except ValueError:
        return False
    return is_number and (len(words) < 2 or _scale_of(words[1]) != 1)


def _value(text: str) -> float | None:
    """What a number stands for, with the scale and the signs of accounting around it; None where it has no digits."""
    found = _NUMBER.search(text.translate(_AROUND_NUMBERS))
    if found is None or found[0].lstrip("+-").startswith("."):
        return None
    number = float(found[0]) if "." in found[0] else int(found[0])
    counted = _NUMBER_WITH_WORD.search(text)
    factors = (
        _scale_of(counted[0]) if counted else 1,
        -1 if _NEGATIVE.search(text.strip()) else 1,
        0.01 if _PERCENT.search(text.strip()) else 1,
    )
    for factor in factors:
        number *= factor
    return round(number, 4)


def _scale_of(word: str) -> float:
    return next((value for name, value in _SCALES.items() if name in word.lower()), 1)
