"""Wrong answers as a page: the table, the question, both answers, and how the wrong one was written.

Knows records, cases and a model; the drawing is in `assets/errors.js` and in the player of `generation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any

from unmask.data.table_text import read_table
from unmask.evaluation.answer_scores import Record, is_right
from unmask.evaluation.cases import Case
from unmask.evaluation.fitting import fitted
from unmask.generation.options import GenerationOptions
from unmask.generation.player import Played, Recording, Vocabulary, asset, page
from unmask.generation.trace import Commit, Trace
from unmask.lm import DiffusionLM, Generation


@dataclass(frozen=True)
class Errors:
    """What the page shows.

    Attributes:
        records, cases: all that were asked, in one order.
        shown: numbers of the wrong ones that are shown.
        about: of the model and the data; shown above.
        recording: how these were written, one row for each of `shown`; None: nothing was written.
    """

    records: Sequence[Record]
    cases: Sequence[Case]
    shown: Sequence[int]
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    recording: Recording | None = None


def wrong(cases: Sequence[Case], most: int) -> list[int]:
    """Numbers of at most so many wrong cases, evenly spaced among all of them."""
    found = [number for number, case in enumerate(cases) if not is_right(case) and case.finish_reason != "too_long"]
    if len(found) <= most:
        return found
    return [found[place * len(found) // most] for place in range(most)]


def recorded(
    lm: DiffusionLM, records: Sequence[Record], shown: Sequence[int], options: GenerationOptions, batch_size: int = 16
) -> Recording:
    """The answers to some records once more, with what was written where and when; without their prompts."""
    rows: list[Played] = []
    for start in range(0, len(shown), batch_size):
        numbers = shown[start : start + batch_size]
        prompts = [fitted(lm, records[number], options.max_new_tokens)[0] or [] for number in numbers]
        seeds = [options.seed + number for number in numbers]
        rows += map(_played, lm.generate(prompts, replace(options, trace=True), seeds=seeds))
    return Recording(rows, Vocabulary.of(lm.tokenizer))


def _played(result: Generation) -> Played:
    assert result.trace is not None
    return Played(_answer_only(result.trace), "", result.text, result.finish_reason, result.stats)


def _answer_only(trace: Trace) -> Trace:
    """Without the given text before the first mask."""
    start = min(trace.masked, default=0)

    def moved(places: Sequence[int]) -> tuple[int, ...]:
        return tuple(place - start for place in places)

    def shifted(commit: Commit) -> Commit:
        return replace(commit, positions=moved(commit.positions), remasked=moved(commit.remasked))

    return Trace(trace.token_ids[start:], moved(trace.masked), tuple(map(shifted, trace.commits)))


def error_page(errors: Errors) -> str:
    """The page, complete in itself: it asks nothing of any network."""
    missed = sum(not is_right(case) for case in errors.cases)
    data = {
        "about": dict(errors.about),
        "asked": len(errors.cases),
        "wrong": missed,
        "cases": [_shown(errors.records[number], errors.cases[number], number) for number in errors.shown],
        "recording": None if errors.recording is None else errors.recording.to_dict(),
    }
    own = files("unmask.evaluation") / "assets"
    style = asset("page.css") + (own / "errors.css").read_text("utf-8")
    script = f"{asset('player.js')}\n{(own / 'errors.js').read_text('utf-8')}"
    return page("Wrong answers", data, style=style, script=script)


def _shown(record: Record, case: Case, number: int) -> dict[str, Any]:
    asked = str(record["messages"][-2]["content"])
    table = read_table(asked)
    told: dict[str, Any] = {
        "number": number + 1,
        "id": case.id,
        "kind": case.kind,
        "gold": case.gold,
        "answers": list(record.get("answers") or [case.gold]),
        "prediction": case.prediction,
        "metrics": case.metrics,
        "choices": case.choices,
        "cut_off": case.finish_reason == "length",
        "table": None,
        "question": asked,
    }
    if table is None:
        return told
    rows = table.rows[: case.table_rows]
    drawn = {"header": table.header, "rows": rows, "left_out": case.rows_left_out + record.get("rows_left_out", 0)}
    return told | {"table": drawn, "before": table.before.strip(), "question": table.after.strip()}
