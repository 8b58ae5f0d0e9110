"""Rows of a file -> prompts to be answered, with their numbers and with what is to be carried through.

Knows no tokenizer and no model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.data.formats import file_kind, read_rows
from unmask.data.records import read_record
from unmask.data.rows import BadRow, Row, json_type
from unmask.data.sources.reading import read_all
from unmask.errors import DataError, did_you_mean

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
# written beside what a row holds
RESULT_KEYS = ("text", "finish_reason", "stats")
Message = dict[str, str]


@dataclass(frozen=True)
class PromptRow:
    """A row that asks for something.

    Attributes:
        number: of the row in the file, from 0; bad rows count.
        where: `file:line`.
        prompt: a text to be continued, or messages to be answered.
        given: what is handed on with the result.
    """

    number: int
    where: str
    prompt: str | list[Message]
    given: dict[str, Any]


def read_prompts(
    path: Path, *, chat_template: bool = False, skip_bad_rows: bool = False
) -> tuple[list[PromptRow], list[str]]:
    """The prompts of a file, and notes about skipped rows.

    A row has one of the keys in `FORMS`. `prompt` and `text` are texts to be continued, or with `chat_template` a
    user's message; the others are conversations that an assistant is to answer, and what they have for an answer is
    not read. All keys of a row are carried through; `text` becomes `prompt`.

    Raises:
        DataError: the file cannot be read, has no usable row, or a row is bad and is not to be skipped.
    """
    _check_file(path)
    if file_kind(path) not in KINDS:
        raise DataError(f"{path}: prompts are read from {', '.join(KINDS)}. One prompt per line: --prompt_file {path}")
    count = -1

    def counted(rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
        nonlocal count
        for row in rows:
            count += 1
            yield row

    def read(row: Row) -> dict[str, Any]:
        return {"row": read_prompt(row, count, chat_template=chat_template)}

    records, notes = read_all(counted(read_rows(path)), str(path), read, skip_bad_rows=skip_bad_rows)
    return [record["row"] for record in records], notes


def _check_file(path: Path) -> None:
    """Raises DataError: it is no file that can be read from its beginning as often as needed."""
    if os.path.isfile(path):
        return
    wanted = "Give a file of prompts, one JSON object per line."
    if os.path.isdir(path):
        raise DataError(f"{path} is a folder. {wanted} Those of several files are put into one first: cat FILES > ONE")
    if os.path.exists(path):
        raise DataError(
            f"{path} is no regular file: it is read more than once, so that a pipe or a device will not do. Write what "
            "comes from it to a file, and give that."
        )
    if set("*?[") & set(path.name):
        raise DataError(f"{path}: there is no such file, and patterns are not read here. {wanted}")
    raise DataError(f"{path}: there is no such file. {wanted}")


def read_prompt(row: Row, number: int, *, chat_template: bool = False) -> PromptRow:
    """The prompt in a row; see `read_prompts`.

    Raises:
        BadRow: there is none, it is of the wrong type, or a key of the row is the name of a result.
    """
    key = next((key for key in FORMS if row.fields.get(key) is not None), None)
    if key is None:
        found, known = ", ".join(list(row.fields)[:8]) or "nothing", ", ".join(f'"{key}"' for key in FORMS)
        guess = next(filter(None, (did_you_mean(key, FORMS) for key in row.fields)), "")
        raise BadRow(row.where, f"no prompt (found: {found}); a row has one of {known}.{guess}", "shape")
    prompt = FORMS[key](row, key)
    _check_names(row, key)
    given = _carried(row, key)
    if isinstance(prompt, str) and chat_template:
        prompt = [{"role": "user", "content": prompt}]
    return PromptRow(number, row.where, prompt, given)


def _carried(row: Row, key: str) -> dict[str, Any]:
    """What is handed on; of columns that this row leaves empty, not those whose names are needed."""
    empty = {name for name, value in row.fields.items() if value is None}
    needed = {*RESULT_KEYS, "prompt"} if key == "text" else set(RESULT_KEYS)
    return {
        "prompt" if name == "text" else name: value for name, value in row.fields.items() if name not in empty & needed
    }


def _check_names(row: Row, key: str) -> None:
    for name in RESULT_KEYS:
        if row.fields.get(name) is not None and name != key:
            raise BadRow(row.where, f'has the key "{name}", under which the result is written. Rename it', "name")


def _text(row: Row, key: str) -> str | list[Message]:
    if key == "prompt" and isinstance(row.fields[key], list):
        return _conversation(Row(row.where, {"messages": row.fields[key]}), "messages")
    if not isinstance(row.fields[key], str):
        raise BadRow(row.where, f'"{key}" must be a string, got {json_type(row.fields[key])}', "type")
    return read_record(row, "text", key)["text"]


def _conversation(row: Row, key: str) -> list[Message]:
    """Messages of a form that training reads, too; the answer that it wants at the end is put there and taken off."""
    turns = row.fields[key]
    if not isinstance(turns, list):
        raise BadRow(row.where, f'"{key}" must be an array, got {json_type(turns)}', "type")
    answer = {"messages": {"role": "assistant", "content": ""}, "conversations": {"from": "gpt", "value": ""}}[key]
    messages = read_record(Row(row.where, {key: [*turns, answer]}), "conversation")["messages"][:-1]
    if not messages or messages[-1]["role"] == "assistant":
        ending = "ends with an answer" if messages else "is empty"
        raise BadRow(row.where, f'"{key}" {ending}; it must end with what is to be answered', "answer")
    return messages


def _question(row: Row, key: str) -> list[Message]:
    answer = {"instruction": "output", "question": "answer", "user": "assistant"}[key]
    fields = {name: row.fields.get(name) for name in (key, "input", "system") if name == key or key == "instruction"}
    return read_record(Row(row.where, {**fields, answer: ""}), "conversation")["messages"][:-1]


FORMS: dict[str, Callable[[Row, str], str | list[Message]]] = {
    "prompt": _text,
    "messages": _conversation,
    "conversations": _conversation,
    "instruction": _question,
    "question": _question,
    "user": _question,
    "text": _text,
}
