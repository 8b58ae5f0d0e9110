"""How right an answer is: exact match and F1 of words as SQuAD counts them, denotations as WikiTableQuestions does.

Texts in, numbers out; knows no model and no file.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(answer: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces (Rajpurkar et al. 2016, SQuAD)."""
    return without_articles(answer.lower().translate(_PUNCTUATION))


def without_articles(text: str) -> str:
    """Without the words a, an and the; single spaces."""
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", text).split())


def exact_match(gold: str, prediction: str) -> float:
    """1.0 where both are the same after `normalise`, else 0.0."""
    return float(normalise(gold) == normalise(prediction))


def token_f1(gold: str, prediction: str) -> float:
    """Harmonic mean of precision and recall of words after `normalise`; of two empty answers 1.0, of one 0.0."""
    wanted, given = normalise(gold).split(), normalise(prediction).split()
    if not wanted or not given:
        return float(wanted == given)
    shared = (Counter(wanted) & Counter(given)).total()
    return 2 * shared / (len(wanted) + len(given))


@dataclass(frozen=True)
class Denotation:
    """What an answer stands for: a number, a date (-1 where a part is unknown), or nothing but its normalised text."""

    text: str
    number: float | None = None
    date: tuple[int, int, int] | None = None

    def matches(self, other: Denotation) -> bool:
        """The same text, the same number, or the same date."""
        if self.text == other.text:
            return True
        if self.number is not None and other.number is not None:
            return abs(self.number - other.number) < _NEAR
        return self.date is not None and self.date == other.date

    @property
    def key(self) -> tuple[str, object]:
        """Equal for answers that count once in a list."""
        if self.number is not None:
            near = round(self.number)
            return "number", near if abs(self.number - near) < _NEAR else self.number
        return ("date", self.date) if self.date is not None else ("text", self.text)


_NEAR = 1e-6
_SAME = {**dict.fromkeys("‘’´`", "'"), **dict.fromkeys("“”", '"'), **dict.fromkeys("‐‑‒–—−", "-")}
# what may follow a cell of Wikipedia: [notes] and marks of footnotes, then remarks in brackets; at the very start of
# the text only a number in square brackets is a note
_NOTES = re.compile(r"(?:(?<!^)\[[^\]]*\]|\[\d+\]|[•♦†‡*#+])*$")
_REMARKS = re.compile(r"(?<!^)(?: \([^)]*\))*$")
_QUOTED = re.compile(r'"([^"]*)"')


def denotation(answer: str, canonical: str = "") -> Denotation:
    """What an answer stands for; `canonical` is its tagged form, where there is one, such as 10.0 or 2001-02-xx."""
    text, read = _plain(answer), canonical or answer
    number = _number(read)
    if number is not None:
        return Denotation(text, number=number)
    date = _date(read)
    if date is None:
        return Denotation(text)
    year, month, day = date
    # a year alone is a number
    return Denotation(text, number=float(year)) if month == day == UNKNOWN else Denotation(text, date=date)


def denotations_match(gold: Sequence[str], predicted: Sequence[str], canonical: Sequence[str] | None = None) -> bool:
    """Whether two lists stand for the same set (Pasupat and Liang 2015; release 1.0.2 of WikiTableQuestions).

    Args:
        gold: the right answers.
        predicted: the answers given.
        canonical: the tagged form of each right answer.

    Raises:
        ValueError: `canonical` is of another length than `gold`.
    """
    wanted = _distinct([denotation(*pair) for pair in zip(gold, canonical or [""] * len(gold), strict=True)])
    given = _distinct([denotation(answer) for answer in predicted])
    return len(wanted) == len(given) and all(any(one.matches(other) for other in given) for one in wanted)


def denotation_accuracy(gold: Sequence[str], prediction: str, canonical: Sequence[str] | None = None) -> float:
    """1.0 where a written prediction stands for the right answers, else 0.0.

    A prediction is one text, with a comma and a space between its answers; an answer may hold such a comma too. It is
    right where it can be cut at some of its commas into answers that are right by `denotations_match`.
    """
    wanted = _distinct([denotation(*pair) for pair in zip(gold, canonical or [""] * len(gold), strict=True)])
    return float(_can_be_cut(tuple(prediction.strip().split(", ")), tuple(wanted), ()))


def _can_be_cut(pieces: tuple[str, ...], wanted: tuple[Denotation, ...], met: tuple[Denotation, ...]) -> bool:
    """Whether the pieces, joined in some way, are the answers still wanted, beside repetitions of those met."""
    if not pieces:
        return not wanted
    for size in range(1, len(pieces) + 1):
        given = denotation(", ".join(pieces[:size]))
        if any(given.key == before.key for before in met) and _can_be_cut(pieces[size:], wanted, met):
            return True
        for place, right in enumerate(wanted):
            if right.matches(given) and _can_be_cut(
                pieces[size:], (*wanted[:place], *wanted[place + 1 :]), (*met, given)
            ):
                return True
    return False


def _distinct(values: list[Denotation]) -> list[Denotation]:
    return list({value.key: value for value in values}.values())


def _plain(text: str) -> str:
    """Without accents, typographic signs, notes, remarks, quotes around it and a full stop; lower case."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if unicodedata.category(letter) != "Mn")
    text = "".join(_SAME.get(letter, letter) for letter in letters)
    before = None
    while text != before:
        before = text
        text = _NOTES.sub("", text.strip(), count=1)
        text = _REMARKS.sub("", text.strip(), count=1).strip()
        quoted = _QUOTED.fullmatch(text)
        text = quoted[1] if quoted else text
    return " ".join(text.removesuffix(".").lower().split())


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


UNKNOWN = -1
_LAST = {"month": 12, "day": 31}


def _date(text: str) -> tuple[int, int, int] | None:
    """Year, month, day of `2001-02-xx`; None where it is none."""
    parts = text.lower().split("-")
    if len(parts) != 3:
        return None
    try:
        year = UNKNOWN if parts[0] in ("xx", "xxxx") else int(parts[0])
        month, day = (
            UNKNOWN if part == "xx" else _within(int(part), last)
            for part, last in zip(parts[1:], _LAST.values(), strict=True)
        )
    except ValueError:
        return None
    return None if year == month == day == UNKNOWN else (year, month, day)


def _within(number: int, last: int) -> int:
    if not 1 <= number <= last:
        raise ValueError(number)
    return number
