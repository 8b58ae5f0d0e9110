from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unmask.data.prompt_rows import read_prompt, read_prompts
from unmask.data.rows import BadRow, Row
from unmask.errors import DataError

USER = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("fields", "prompt", "given"),
    [
        ({"prompt": "a", "id": 1}, "a", {"prompt": "a", "id": 1}),
        ({"text": "a", "b": 2}, "a", {"prompt": "a", "b": 2}),
        ({"prompt": USER}, USER, {"prompt": USER}),
        ({"messages": USER, "x": []}, USER, {"messages": USER, "x": []}),
        (
            {"conversations": [{"from": "human", "value": "hi"}]},
            USER,
            {"conversations": [{"from": "human", "value": "hi"}]},
        ),
        ({"question": "hi", "answer": 5}, USER, {"question": "hi", "answer": 5}),
        ({"user": "hi"}, USER, {"user": "hi"}),
        ({"prompt": None, "question": "hi"}, USER, {"prompt": None, "question": "hi"}),
        ({"text": "Oslo", "prompt": None}, "Oslo", {"prompt": "Oslo"}),
        ({"prompt": None, "text": "Oslo", "id": None}, "Oslo", {"prompt": "Oslo", "id": None}),
        ({"text": None, "prompt": "Oslo", "stats": None}, "Oslo", {"prompt": "Oslo"}),
        ({"text": None, "prompt": None, "question": "hi"}, USER, {"prompt": None, "question": "hi"}),
        (
            {"instruction": "Add", "input": "1, 2", "output": "3", "system": "Be brief."},
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add\n\n1, 2"}],
            {"instruction": "Add", "input": "1, 2", "output": "3", "system": "Be brief."},
        ),
    ],
)
def test_every_form(fields: dict[str, Any], prompt: Any, given: dict[str, Any]) -> None:
    row = read_prompt(Row("f:1", fields), 4)
    assert (row.number, row.where, row.prompt, row.given) == (4, "f:1", prompt, given)


def test_texts_may_be_a_user_s_message() -> None:
    assert read_prompt(Row("f:1", {"prompt": "hi"}), 0, chat_template=True).prompt == USER
    assert read_prompt(Row("f:1", {"messages": USER}), 0, chat_template=True).prompt == USER


@pytest.mark.parametrize(
    ("fields", "phrase"),
    [
        ({"promt": "a"}, r'no prompt \(found: promt\).* Did you mean "prompt"'),
        ({}, r"no prompt \(found: nothing\)"),
        ({"prompt": 5}, '"prompt" must be a string, got number 5'),
        ({"text": "\ud800"}, r"broken Unicode escape \(\\ud800\)"),
        ({"messages": "hi"}, '"messages" must be an array, got string'),
        ({"messages": []}, '"messages" is empty'),
        ({"messages": [*USER, {"role": "assistant", "content": "x"}]}, "ends with an answer; it must end with what is"),
        ({"messages": [{"role": "usr", "content": "x"}]}, 'Did you mean "user"'),
        ({"prompt": "a", "stats": 1}, 'has the key "stats", under which the result is written'),
        ({"prompt": "a", "text": "b"}, 'has the key "text"'),
    ],
)
def test_bad_rows(fields: dict[str, Any], phrase: str) -> None:
    with pytest.raises(BadRow, match=phrase):
        read_prompt(Row("f:1", fields), 0)


def test_numbers_are_of_the_place_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "a"}\n\n[1]\n{"x": 1}\n{"prompt": "b"}\n')
    with pytest.raises(DataError, match=r"a.jsonl:3 expected an object, got array"):
        read_prompts(file)
    rows, notes = read_prompts(file, skip_bad_rows=True)
    assert [(row.number, row.where, row.prompt) for row in rows] == [(0, f"{file}:1", "a"), (3, f"{file}:5", "b")]
    assert "2 of 4 rows skipped" in notes[0]
    (tmp_path / "b.csv").write_text("question,level\nhi,3\n")
    assert read_prompts(tmp_path / "b.csv")[0][0].prompt == USER


@pytest.mark.parametrize(
    ("name", "content", "phrase"),
    [
        ("none.jsonl", None, "there is no such file"),
        ("a.txt", "a\n", r"prompts are read from .jsonl.*--prompt_file"),
        ("empty.jsonl", "\n", "holds 0 records"),
        ("cut.jsonl", '{"prompt": "a', "ends in the middle of a record"),
    ],
)
def test_files_that_hold_no_prompts(tmp_path: Path, name: str, content: str | None, phrase: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=phrase):
        read_prompts(tmp_path / name)


def test_what_is_written_can_be_read_as_json(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"prompt": "caf\u00e9 \u2028", "n": 1e300}) + "\n")
    assert read_prompts(file)[0][0].given == {"prompt": "caf\u00e9 \u2028", "n": 1e300}
