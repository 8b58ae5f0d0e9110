"""The prompt of a record as ids that fit a model: a table that is too long loses its last rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unmask.data.chat import prompt_ids
from unmask.data.table_text import shorten
from unmask.lm import DiffusionLM


def fitted(lm: DiffusionLM, record: Mapping[str, Any], answer_tokens: int) -> tuple[list[int] | None, int]:
    """The ids of all turns but the last, and how many rows of the table were left out.

    None in place of ids: even without the table's rows they and an answer of `answer_tokens` do not fit the model.
    """
    *before, last = record["messages"][:-1]
    room = lm.model.facts.shape.max_length - answer_tokens

    def ids(text: str) -> list[int]:
        return prompt_ids([*before, {**last, "content": text}], lm.tokenizer)

    whole = ids(last["content"])
    if len(whole) <= room:
        return whole, 0
    found = shorten(last["content"], lambda text: len(ids(text)) <= room)
    return (None, 0) if found is None else (ids(found[0]), found[1])
