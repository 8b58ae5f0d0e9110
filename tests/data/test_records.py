"""Every shape of row that is recognised, and what is said of those that are not."""

from __future__ import annotations

from typing import Any

import pytest

from unmask.data.records import read_record
from unmask.data.rows import BadRow, Row


def _messages(fields: dict[str, Any]) -> list[tuple[str, str]]:
    record = read_record(Row("f:1", fields), "conversation")
    assert record["where"] == "f:1"
    return [(message["role"], message["content"]) for message in record["messages"]]


PAIR = [("user", "q"), ("assistant", "a")]
SYSTEM = [("system", "s"), *PAIR]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"messages": [{"role": r, "content": c, "loss": 1} for r, c in SYSTEM], "source": "x", "table_id": 3}, SYSTEM),
        ({"instruction": "q", "input": "", "output": "a"}, PAIR),
        ({"instruction": "q", "output": "a", "history": None}, PAIR),
        ({"instruction": "q", "input": "more", "output": "a"}, [("user", "q\n\nmore"), ("assistant", "a")]),
        ({"instruction": "q", "input": "", "output": "a", "system": "s"}, SYSTEM),
        ({"instruction": "q", "input": "", "output": ""}, [("user", "q"), ("assistant", "")]),
        ({"input": "q", "output": "a"}, PAIR),
        ({"user": "q", "assistant": "a"}, PAIR),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, PAIR),
        # A table merged of two shapes holds nulls for the other one's columns.
        ({"messages": None, "instruction": None, "input": "q", "output": "a"}, PAIR),
    ],
)
def test_shapes(fields: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert _messages(fields) == expected


def test_s1k() -> None:
    fields = {"question": "1+1?", "thinking_trajectories": ["count", "again"], "attempt": "2", "solution": "two"}
    (_, user), (_, assistant) = _messages(fields)
    assert user.endswith("1+1?") and "<reasoning>" in user
    assert assistant == "<reasoning>count</reasoning>\n<answer>2</answer>"


def test_texts() -> None:
    assert read_record(Row("f:1", {"text": "x", "url": "y"}), "text") == {"text": "x", "where": "f:1"}
    assert read_record(Row("f:1", {"content": "x"}), "text", "content") == {"text": "x", "where": "f:1"}


def _turn(role: Any, content: Any = "x") -> dict[str, Any]:
    return {"role": role, "content": content}


ASSISTANT = _turn("assistant")


@pytest.mark.parametrize(
    ("fields", "want", "phrase"),
    [
        ({"txet": "x"}, "text", r'f:7 no "text" or "messages" key \(found: txet\).*Did you mean "text"\?'),
        ({"txet": "x"}, "conversation", r'f:7 no "text" or "messages" key \(found: txet\).*Did you mean "text"\?'),
        ({}, "text", r"found: nothing"),
        ({"mesages": []}, "conversation", r'Did you mean "messages"\?.*sft reads: messages'),
        ({"instruction": "x", "ouput": "y"}, "conversation", r'Did you mean "output"\?'),
        ({"text": "x"}, "conversation", r'f:7 "text" is no conversation: it is for unmask pretrain'),
        ({"user": "x", "assistant": "y"}, "text", r'no "text" or "messages" key.*conversations are for unmask sft'),
        ({"text": 5}, "text", r'f:7 "text" must be a string, got number 5'),
        ({"text": None}, "text", r'"text" must be a string, got null'),
        ({"text": ["x"]}, "text", r'"text" must be a string, got array'),
        ({"text": "a\ud800b"}, "text", r'f:7 "text" holds a broken Unicode escape \(\\ud800\)'),
        ({"messages": "x"}, "conversation", r'"messages" must be an array, got string'),
        ({"messages": ["x"]}, "conversation", r"messages\[0\] must be an object, got string"),
        ({"messages": []}, "conversation", r"f:7 no assistant turn to learn from"),
        ({"messages": [_turn("user")]}, "conversation", r"no assistant turn to learn from; the last .* of the user"),
        ({"messages": [_turn("user"), ASSISTANT, _turn("user")]}, "conversation", r"no assistant turn to learn from"),
        (
            {"messages": [_turn("user"), ASSISTANT, _turn("asistant")]},
            "conversation",
            r'messages\[2\]\.role "asistant" is not one of system, user, assistant, tool\. Did you mean "assistant"\?',
        ),
        (
            {"messages": [_turn("user", None), ASSISTANT]},
            "conversation",
            r"messages\[0\]\.content must be a string, got null",
        ),
        ({"messages": [_turn(None), ASSISTANT]}, "conversation", r"messages\[0\]\.role must be a string, got null"),
        ({"messages": [_turn("user", "\udfff"), ASSISTANT]}, "conversation", r"broken Unicode escape \(\\udfff\)"),
        (
            {"conversations": [{"from": "humn", "value": ""}]},
            "conversation",
            r'conversations\[0\]\.from "humn".*"human"',
        ),
        ({"instruction": 3, "output": "x"}, "conversation", r'"instruction" must be a string, got number 3'),
        ({"input": "x", "output": None}, "conversation", r'"output" must be a string, got null'),
        (
            {"question": "x", "thinking_trajectories": [], "attempt": "y"},
            "conversation",
            r'"thinking_trajectories" must be an array of strings',
        ),
    ],
)
def test_mistakes_are_named(fields: dict[str, Any], want: Any, phrase: str) -> None:
    with pytest.raises(BadRow, match=phrase):
        read_record(Row("f:7", fields), want)
