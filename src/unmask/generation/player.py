"""A trace as people read it: with the text of its tokens, as JSON or as a page that plays it.

Knows ids and a function that decodes them; no model, no file.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any, cast

from unmask.generation.trace import Stats, Trace

SCHEMA = "unmask-trace/1"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
Decode = Callable[[list[int]], str]


@dataclass(frozen=True)
class Vocabulary:
    """What ids mean to a reader.

    Attributes:
        decode: ids to text, special tokens kept.
        mask_token_id: the mask's.
        special_ids: tokens that are no text, the mask among them.
    """

    decode: Decode
    mask_token_id: int
    special_ids: Collection[int] = frozenset()

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """That of a Hugging Face tokenizer with a mask token."""

        def decode(ids: list[int]) -> str:
            return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

        return cls(decode, tokenizer.mask_token_id, frozenset({*tokenizer.all_special_ids, tokenizer.mask_token_id}))


@dataclass(frozen=True)
class Played:
    """One row to be played.

    Attributes:
        trace: how it was written.
        prompt: what was asked for: a text, ids, or messages.
        text: the result.
        finish_reason, stats: as in `Completion`, where known.
        expected: the text that would have been right, where that is known.
    """

    trace: Trace
    prompt: Any
    text: str
    finish_reason: str | None = None
    stats: Stats | None = None
    expected: str | None = None


@dataclass(frozen=True)
class Recording:
    """Several rows that were written together.

    Attributes:
        rows: see there. vocabulary: of all of them.
        about: shown above the rows: `model`, `options` and `seconds`, where known.
    """

    rows: Sequence[Played]
    vocabulary: Vocabulary
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_dict(self) -> dict[str, Any]:
        """The recording as plain data; docs/seeing.md describes it."""
        used = {token for row in self.rows for token in _ids(row.trace)} | {self.vocabulary.mask_token_id}
        return {
            "schema": SCHEMA,
            **self.about,
            "mask_token": self.vocabulary.decode([self.vocabulary.mask_token_id]),
            "mask_token_id": self.vocabulary.mask_token_id,
            "special": sorted(used & set(self.vocabulary.special_ids)),
            "tokens": {str(token): self.vocabulary.decode([token]) for token in sorted(used)},
            "rows": [_row(row, self.vocabulary) for row in self.rows],
        }

    def to_json(self) -> str:
        """The same as one JSON object."""
        return json.dumps(finite(self.to_dict()), ensure_ascii=False)

    def to_html(self) -> str:
        """A page that plays it, complete in itself: it asks nothing of any network."""
        script = f"{asset('player.js')}\ndrawTrace(JSON.parse(document.getElementById('data').textContent));"
        return page("How a text was written", self.to_dict(), style=asset("page.css"), script=script)


def _row(row: Played, vocabulary: Vocabulary) -> dict[str, Any]:
    final = list(row.trace.token_ids)
    for commit in row.trace.commits:
        for place, token in zip(commit.positions, commit.token_ids, strict=True):
            final[place] = token
    told: dict[str, Any] = {"prompt": row.prompt, "text": row.text, **asdict(row.trace)}
    told["commits"] = [{**commit, "confidences": _rounded(commit["confidences"])} for commit in told["commits"]]
    told["pieces"] = pieces_of_row(final, vocabulary)
    told["finish_reason"] = row.finish_reason
    if row.stats is not None:
        told |= {"emitted": row.stats.emitted, "forwards": row.stats.forwards.total}
    return told | ({"expected": row.expected} if row.expected is not None else {})


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 5) for value in values]


def _ids(trace: Trace) -> set[int]:
    return {*trace.token_ids, *(token for commit in trace.commits for token in commit.token_ids)}


def pieces_of_row(ids: Sequence[int], vocabulary: Vocabulary) -> list[str]:
    """The text of each token in its place; neighbours are decoded together, special tokens by themselves."""
    found: list[str] = []
    run: list[int] = []
    for token in (*ids, None):
        if token is not None and token not in vocabulary.special_ids:
            run.append(token)
            continue
        found += pieces(run, vocabulary.decode)
        run = []
        if token is not None:
            found.append(vocabulary.decode([token]))
    return found


def pieces(ids: list[int], decode: Decode) -> list[str]:
    """The text that each token adds to those before it; the bytes of an unfinished letter wait for the rest of it."""
    found: list[str] = []
    start = read = 0
    for end in range(1, len(ids) + 1):
        before, now = decode(ids[start:read]), decode(ids[start:end])
        if now.endswith(REPLACEMENT) and end < len(ids):
            found.append("")
            continue
        found.append(now[len(before) :])
        start, read = read, end
    return found


def page(title: str, data: Any, *, style: str, script: str) -> str:
    """One HTML file with everything in it; a browser sends nothing anywhere when it opens it.

    Args:
        title: of the window.
        data: what the script reads from the element `data`; any text may be in it.
        style, script: our own, never a user's.
    """
    # one pass: what is filled in may itself look like a placeholder
    parts = {"title": html.escape(title), "style": style, "script": script, "data": harmless_json(data)}
    pieces = asset("page.html").split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        filled += [parts[name], rest]
    return "".join(filled)


def harmless_json(data: Any) -> str:
    """JSON that no text in it can turn into markup: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(finite(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def finite(data: Any) -> Any:
    """The same data; numbers that JSON lacks become null."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        mapping = cast("Mapping[Any, Any]", data)
        return {str(key): finite(value) for key, value in mapping.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in cast("Sequence[Any]", data)]
    return data if data is None or isinstance(data, str | int | bool) else str(data)


def asset(name: str) -> str:
    """A file of this package's pages."""
    return (files("unmask.generation") / "assets" / name).read_text("utf-8")
