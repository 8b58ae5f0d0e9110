"""The rows that the base learns from, as ids and what of them may be noised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from unmask.data.examples import example_rows
from unmask.data.table_reading import Reading, What, readings
from unmask.data.tables import TableOptions

# What is noised of a reading, and how often: only values, only keys, all that is said, or the table too.
Hidden = Mapping[Literal["value", "key", "said", "all"], float]


@dataclass(frozen=True)
class Lesson:
    """A stage of the curriculum.

    Attributes:
        rows, columns: of the tables, least and most.
        hidden: what is noised, and how often.
        reasoned: share of readings that tell what follows from several cells.
        foreign: share of readings with made-up words.
        plain: share of paragraphs and facts without a table among the rows.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    hidden: Hidden
    reasoned: float = 0.0
    foreign: float = 0.0
    plain: float = 0.0


def token_rows(
    lesson: Lesson, tokenizer: PreTrainedTokenizerBase, *, count: int, seed: int
) -> Iterator[dict[str, Any]]:
    """`count` rows `{"input_ids", "may_noise"}`, readings and plain texts mixed."""
    random = Random(f"base/{seed}")
    plain = iter(example_rows("text", name="easy", count=count, seed=seed, split="train"))
    tables = readings(
        TableOptions(seed=seed, rows=lesson.rows, columns=lesson.columns),
        reasoned=lesson.reasoned,
        foreign=lesson.foreign,
    )
    for _ in range(count):
        if random.random() < lesson.plain:
            ids = [*tokenizer(next(plain)["text"])["input_ids"], tokenizer.eos_token_id]
            yield {"input_ids": ids, "may_noise": [True] * len(ids)}
        else:
            hidden = random.choices(tuple(lesson.hidden), tuple(lesson.hidden.values()))[0]
            yield reading_row(next(tables), hidden, tokenizer)


def reading_row(reading: Reading, hidden: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A reading as ids, with what of it may be noised."""
    what: What = "key" if hidden == "key" else "value"
    given = tokenizer(reading.given)["input_ids"]
    said = tokenizer(reading.said, return_offsets_mapping=True)
    spans = reading.spans(what)
    if hidden in ("said", "all") or not spans:
        may = [True] * len(said["input_ids"])
    else:
        may = [any(start < end_ and start_ < end for start_, end_ in spans) for start, end in said["offset_mapping"]]
    # the end of the text is told by nothing, so it is not learned here
    return {"input_ids": given + said["input_ids"], "may_noise": [hidden == "all"] * len(given) + may}
