"""The rows that the base learns from, as ids and what of them may be noised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from unmask.data.examples import example_rows
from unmask.data.table_reading import Reading, Span, readings
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
        ciphered: share of readings whose cells are tokens drawn by chance, so that every token of the vocabulary has
            once been looked up, those of questions and conversations too.
        plain: share of paragraphs and facts without a table among the rows.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    hidden: Hidden
    reasoned: float = 0.0
    foreign: float = 0.0
    plain: float = 0.0
    ciphered: float = 0.0


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
            cipher = random if lesson.ciphered and random.random() < lesson.ciphered else None
            yield reading_row(next(tables), hidden, tokenizer, cipher)


def reading_row(
    reading: Reading, hidden: str, tokenizer: PreTrainedTokenizerBase, cipher: Random | None = None
) -> dict[str, Any]:
    """A reading as ids, with what of it may be noised; with `cipher`, its cells are tokens drawn by chance."""
    given = tokenizer(reading.given)["input_ids"]
    said = tokenizer(reading.said, return_offsets_mapping=True)
    ids, offsets = said["input_ids"], said["offset_mapping"]
    of_key, of_value = (_within(offsets, reading.spans(what)) for what in ("key", "value"))
    if cipher is not None:
        words = {id for id, *cell in zip(ids, of_key, of_value, strict=True) if not any(cell)}
        other = _Cipher({id for id in ids if id not in words}, tokenizer, cipher)
        given, ids = [other[id] for id in given], [other[id] for id in ids]
    may = of_key if hidden == "key" else of_value
    if hidden in ("said", "all") or not any(may):
        may = [True] * len(ids)
    # the end of the text is told by nothing, so it is not learned here
    return {"input_ids": given + ids, "may_noise": [hidden == "all"] * len(given) + may}


def _within(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    return [any(start < behind and first < end for first, behind in spans) for start, end in offsets]


class _Cipher(dict[int, int]):
    """Another token for each of some, itself for all others."""

    def __init__(self, tokens: set[int], tokenizer: PreTrainedTokenizerBase, random: Random) -> None:
        barred = {tokenizer.mask_token_id, tokenizer.pad_token_id}
        drawn = random.sample([id for id in range(len(tokenizer)) if id not in barred], len(tokens))
        super().__init__(zip(sorted(tokens), drawn, strict=True))

    def __missing__(self, token: int) -> int:
        return token
