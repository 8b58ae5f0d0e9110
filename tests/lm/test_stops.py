from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from unmask.lm.stops import cut_at_stop, first_stop


@pytest.mark.parametrize(
    ("text", "stops", "start", "place"),
    [
        ("one two", ("two",), 0, 4),
        ("one two one", ("two", "ne"), 0, 1),
        ("one", ("two",), 0, None),
        ("abab", ("ab",), 2, 2),
        ("abab", ("ab",), 1, 0),  # it ends behind the first letter
        ("abab", ("bab",), 2, 1),
        ("abab", ("ab",), 4, None),
    ],
)
def test_the_earliest_stop_is_found(text: str, stops: tuple[str, ...], start: int, place: int | None) -> None:
    assert first_stop(text, stops, start) == place


def text_of(ids: Sequence[int]) -> str:
    """Bytes; those of an unfinished letter read as a replacement character."""
    return bytes(ids).decode("utf-8", errors="replace")


def test_the_tokens_are_the_fewest_that_hold_the_text() -> None:
    ids = list("caf\u00e9 STOP more".encode())
    assert cut_at_stop(ids, ("STOP",), text_of) == (ids[:6], "caf\u00e9 ", True)
    assert cut_at_stop(ids, (" S",), text_of) == (ids[:5], "caf\u00e9", True)
    assert cut_at_stop(ids, ("x",), text_of) == (ids, "caf\u00e9 STOP more", False)
    assert cut_at_stop(ids, ("c",), text_of) == ([], "", True)


def test_a_stop_that_spans_tokens_and_begins_within_one() -> None:
    words = ["Hel", "lo\n", "\nUs", "er"]

    def read(ids: Sequence[int]) -> str:
        return "".join(words[token] for token in ids)

    assert cut_at_stop([0, 1, 2, 3], ("\n\n",), read) == ([0, 1], "Hello", True)


def test_the_first_tokens_are_not_ended() -> None:
    ids = list(b"a.b.c.")
    assert cut_at_stop(ids, (".",), text_of, least=2) == (list(b"a.b"), "a.b", True)
    assert cut_at_stop(ids, (".",), text_of, least=6) == (ids, "a.b.c.", False)


def test_against_a_plain_search() -> None:
    chance = random.Random(0)
    for _ in range(300):
        text = "".join(chance.choice("ab\u00e9") for _ in range(chance.randint(0, 12)))
        stops = ["".join(chance.choice("ab\u00e9") for _ in range(chance.randint(1, 3))) for _ in range(2)]
        ids, kept, found = cut_at_stop(list(text.encode()), stops, text_of)
        ends = [end for end in range(len(text) + 1) if any(text[end:].startswith(stop) for stop in stops)]
        assert kept == (text[: ends[0]] if ends else text) and found == bool(ends)
        assert bytes(ids).decode() == kept
