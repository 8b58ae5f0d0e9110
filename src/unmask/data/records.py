"""Rows of every accepted shape -> one of two records: a text, or a conversation.

The table `SHAPES` is the whole of what is recognised; columns beyond those of a shape are ignored. Knows nothing of
files or tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from unmask.data.rows import BadRow, Row, json_type
from unmask.errors import did_you_mean

Want = Literal["text", "conversation"]
Message = dict[str, str]

ROLES = ("system", "user", "assistant", "tool")
_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    **{role: role for role in ROLES},
}
_REASONING_FORMAT = "Respond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n\n"


@dataclass(frozen=True)
class Shape:
    """A kind of row: the keys it must have, and how its fields become messages."""

    keys: tuple[str, ...]
    messages: Callable[[Row], list[Message]]
    written: str


def read_record(row: Row, want: Want, text_field: str = "text") -> dict[str, Any]:
    """The record in a row: `{"text": str}` or `{"messages": [{"role", "content"}, ...]}`, and its place as `where`.

    Args:
        row: fields as they were read.
        want: a text (pretraining) or a conversation (fine-tuning).
        text_field: key of the text.

    Raises:
        BadRow: no known shape, a field of the wrong type, an unknown role, no answer to learn from, broken Unicode.
    """
    if want == "text":
        return {"text": _text(row, text_field), "where": row.where}
    messages = _shape(row, text_field).messages(row)
    if not messages or messages[-1]["role"] != "assistant":
        ending = f"; the last message is of the {messages[-1]['role']}" if messages else ""
        raise BadRow(row.where, f"no assistant turn to learn from{ending}", "answer")
    return {"messages": messages, "where": row.where}


def _text(row: Row, text_field: str) -> str:
    if text_field in row.fields:
        return _string(row, text_field)
    wanted = f'"{text_field}" or "messages"' if text_field == "text" else f'"{text_field}"'
    guess = _guess(row, [text_field])
    conversation = _matching(row.fields)
    hint = ". Rows of conversations are for unmask sft" if conversation else ""
    raise BadRow(row.where, f"no {wanted} key (found: {_found(row)}){hint}.{guess}", "shape")


def _shape(row: Row, text_field: str) -> Shape:
    shape = _matching(row.fields)
    if shape:
        return shape
    allowed = "; ".join(shape.written for shape in SHAPES)
    if isinstance(row.fields.get(text_field), str):
        reason = f'"{text_field}" is no conversation: it is for unmask pretrain. sft reads: {allowed}'
        raise BadRow(row.where, reason, "shape")
    known = [key for shape in SHAPES for key in shape.keys]
    guess = _guess(row, [text_field, *known])
    reason = f'no "text" or "messages" key (found: {_found(row)}).{guess} sft reads: {allowed}'
    raise BadRow(row.where, reason, "shape")


def _matching(fields: dict[str, Any]) -> Shape | None:
    """The first shape whose keys all have values, else the first whose keys are there but null."""
    filled = (shape for shape in SHAPES if all(fields.get(key) is not None for key in shape.keys))
    there = (shape for shape in SHAPES if all(key in fields for key in shape.keys))
    return next(filled, None) or next(there, None)


def _found(row: Row) -> str:
    return ", ".join(list(row.fields)[:8]) or "nothing"


def _guess(row: Row, known: list[str]) -> str:
    guesses = (did_you_mean(key, known) for key in row.fields if key not in known)
    return next(filter(None, guesses), "")


def _string(row: Row, key: str, name: str | None = None, fields: dict[str, Any] | None = None) -> str:
    value = (row.fields if fields is None else fields).get(key)
    name = f'"{key}"' if name is None else name
    if not isinstance(value, str):
        raise BadRow(row.where, f"{name} must be a string, got {json_type(value)}", "type")
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        broken = f"\\u{ord(value[problem.start]):04x}"
        raise BadRow(row.where, f"{name} holds a broken Unicode escape ({broken})", "unicode") from problem
    return value


def _optional(row: Row, key: str) -> str:
    return "" if row.fields.get(key) is None else _string(row, key)


def _exchange(row: Row, user: str, assistant: str) -> list[Message]:
    system = _optional(row, "system")
    opening = [{"role": "system", "content": system}] if system.strip() else []
    return [*opening, {"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _alpaca(row: Row) -> list[Message]:
    instruction, context = _string(row, "instruction"), _optional(row, "input")
    prompt = f"{instruction}\n\n{context}" if context.strip() else instruction
    return _exchange(row, prompt, _string(row, "output"))


def _input_output(row: Row) -> list[Message]:
    return _exchange(row, _string(row, "input"), _string(row, "output"))


def _user_assistant(row: Row) -> list[Message]:
    return _exchange(row, _string(row, "user"), _string(row, "assistant"))


def _question_answer(row: Row) -> list[Message]:
    return _exchange(row, _string(row, "question"), _string(row, "answer"))


def _s1k(row: Row) -> list[Message]:
    trajectories = _list(row.fields["thinking_trajectories"])
    if not isinstance(trajectories, list) or not trajectories:
        reason = f'"thinking_trajectories" must be an array of strings, got {json_type(trajectories)}'
        raise BadRow(row.where, reason, "type")
    reasoning = _string(row, "0", "thinking_trajectories[0]", {"0": trajectories[0]})
    answer = f"<reasoning>{reasoning}</reasoning>\n<answer>{_string(row, 'attempt')}</answer>"
    return _exchange(row, _REASONING_FORMAT + _string(row, "question"), answer)


def _messages(row: Row) -> list[Message]:
    roles = {role: role for role in ROLES}
    return [_message(row, f"messages[{index}]", item, ("role", "content"), roles) for index, item in _items(row)]


def _sharegpt(row: Row) -> list[Message]:
    turns = _items(row, "conversations")
    keys = ("from", "value")
    return [_message(row, f"conversations[{index}]", item, keys, _SHAREGPT_ROLES) for index, item in turns]


def _items(row: Row, key: str = "messages") -> list[tuple[int, Any]]:
    items = _list(row.fields[key])
    if not isinstance(items, list):
        raise BadRow(row.where, f'"{key}" must be an array, got {json_type(items)}', "type")
    return list(enumerate(items))


def _list(value: Any) -> Any:
    """A list, also where it is written as JSON, as in a cell of a .csv file; anything else as it is."""
    if not (isinstance(value, str) and value.lstrip().startswith("[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _message(row: Row, name: str, item: Any, keys: tuple[str, str], roles: dict[str, str]) -> Message:
    if not isinstance(item, dict):
        raise BadRow(row.where, f"{name} must be an object, got {json_type(item)}", "type")
    role = _string(row, keys[0], f"{name}.{keys[0]}", item)
    if role not in roles:
        allowed = ", ".join(roles)
        reason = f'{name}.{keys[0]} "{role}" is not one of {allowed}.{did_you_mean(role, roles)}'
        raise BadRow(row.where, reason, "role")
    return {"role": roles[role], "content": _string(row, keys[1], f"{name}.{keys[1]}", _joined(item, keys[1]))}


def _joined(item: dict[str, Any], key: str) -> dict[str, Any]:
    """The message with a content of several texts, `[{"type": "text", "text": ...}]`, made one; others as they are."""
    parts = item.get(key)
    if not isinstance(parts, list) or not parts:
        return item
    if not all(map(_is_text, parts)):
        return item
    return {**item, key: "".join(part.get("text", part.get("value")) for part in parts)}


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text", part.get("value")), str)
    )


SHAPES = (
    Shape(("messages",), _messages, "messages [{role, content}]"),
    Shape(("conversations",), _sharegpt, "conversations [{from, value}]"),
    Shape(("instruction", "output"), _alpaca, "instruction, output and optionally input, system"),
    Shape(("input", "output"), _input_output, "input, output"),
    Shape(("user", "assistant"), _user_assistant, "user, assistant"),
    Shape(("question", "thinking_trajectories", "attempt"), _s1k, "question, thinking_trajectories, attempt"),
    Shape(("question", "answer"), _question_answer, "question, answer"),
)
