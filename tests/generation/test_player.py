"""A trace for people: replaying what the page is given leads to the text, and no text becomes markup."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from unmask.generation.player import Played, Recording, Vocabulary, asset, page, pieces, pieces_of_row
from unmask.generation.trace import Commit, Forwards, Stats, Trace

HOSTILE = "</script><script>alert('x')</script>&amp; {{data}} {{title}} ]]> \u2028"
WORDS = ["<mask>", "<end>", " red", " blue", "\n", HOSTILE]


def decode(ids: list[int]) -> str:
    return "".join(WORDS[token] for token in ids)


def recording() -> Recording:
    """A row whose second blank is written, taken back, and written again."""
    commits = (
        Commit(0, 0, 0, (1, 2), (5, 2), (0.9, 0.25)),
        Commit(0, 1, 0, (3,), (1,), (1.0,), remasked=(2,)),
        Commit(0, 2, 0, (2,), (3,), (0.5,)),
    )
    trace = Trace((2, 0, 0, 0, 0), (1, 2, 3, 4), commits)
    row = Played(trace, HOSTILE, decode([5, 3]), "stop", Stats(2, Forwards(denoise=3), 15), expected=" blue")
    return Recording([row], Vocabulary(decode, 0, frozenset({0, 1})), {"model": HOSTILE, "seconds": math.nan})


class Reader(HTMLParser):
    """The tags of a page, what its script elements hold, and every address it names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.addresses: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag == "script"
        self.scripts += [""] if self._inside else []
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data


def test_the_page_holds_the_recording_and_nothing_of_it_becomes_markup() -> None:
    told = recording()
    read = Reader(told.to_html())
    assert read.tags.count("script") == 2
    assert json.loads(read.scripts[0]) == json.loads(told.to_json())
    assert "alert(" not in read.scripts[1]


def test_the_page_asks_for_nothing() -> None:
    text = recording().to_html()
    assert Reader(text).addresses == []
    addresses = set(re.findall(r"https?://[\w./]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a notation, which nobody fetches
    assert "@import" not in text and "url(" not in text and "fetch(" not in text
    assert "default-src 'none'" in text


def test_replaying_the_json_leads_to_the_pieces() -> None:
    told = json.loads(recording().to_json())
    (row,) = told["rows"]
    state: list[int | None] = [
        None if place in row["masked"] else token for place, token in enumerate(row["token_ids"])
    ]
    for commit in row["commits"]:
        for place in commit["remasked"]:
            state[place] = None
        for place, token in zip(commit["positions"], commit["token_ids"], strict=True):
            state[place] = token
    assert state == [2, 5, 3, 1, None]
    assert [told["tokens"][str(token)] for token in state if token is not None] == row["pieces"][:4]
    assert row["pieces"][1] == HOSTILE
    assert told["special"] == [0, 1] and told["mask_token"] == "<mask>"
    assert (row["finish_reason"], row["emitted"], row["forwards"], row["expected"]) == ("stop", 2, 3, " blue")
    assert told["seconds"] is None, "JSON knows no NaN"


def test_letters_of_several_tokens_belong_to_the_last_of_them() -> None:
    letter = "é".encode()

    def bytewise(ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")

    assert pieces([97, *letter, 98], bytewise) == ["a", "", "é", "b"]
    vocabulary = Vocabulary(bytewise, 0, frozenset({0}))
    assert pieces_of_row([97, letter[0], 0, 98], vocabulary) == ["a", "\N{REPLACEMENT CHARACTER}", "\x00", "b"]


@pytest.mark.parametrize("name", ["page.css", "player.js"])
def test_assets_could_not_end_their_element(name: str) -> None:
    assert "</" not in asset(name).replace("</span>", "") and "{{" not in asset(name)


def test_numbers_that_json_lacks_become_null() -> None:
    data: dict[str, Any] = {"a": [math.inf, -math.inf, 1.5], "b": (True, None, "x")}
    text = Reader(page("t", data, style="", script="")).scripts[0]
    assert json.loads(text) == {"a": [None, None, 1.5], "b": [True, None, "x"]}
