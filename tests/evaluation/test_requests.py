"""Requests are told apart, and answers outlive a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from unmask.errors import ConfigError, ResourceError
from unmask.evaluation.requests import Answers, Request, numbered

BASE = Request("score", "a prompt", "a target", {"until": ["x"]})


def test_everything_that_an_answer_depends_on_is_in_its_key() -> None:
    others = [
        replace(BASE, kind="generate"),
        replace(BASE, prompt="a prompta"),
        replace(BASE, prompt="a prompta", target=" target"),
        replace(BASE, settings={"until": ["y"]}),
        replace(BASE, greedy=True),
        replace(BASE, is_chat=True),
        replace(BASE, number=1),
    ]
    keys = {request.key("model") for request in [BASE, *others]}
    assert len(keys) == 8 and BASE.key("another") not in keys
    assert BASE.key("model") == Request("score", "a prompt", "a target", {"until": ["x"]}).key("model")
    assert len({request.seed for request in [BASE, *others]}) == 8


def test_equal_requests_are_numbered() -> None:
    other = replace(BASE, prompt="other")
    assert [request.number for request in numbered([BASE, other, BASE, BASE, other])] == [0, 0, 1, 2, 1]


def test_answers_are_there_again_and_a_torn_line_is_not(tmp_path: Path) -> None:
    first, second = Answers(tmp_path, 0), Answers(tmp_path, 1)
    first.add("a", "text\nin lines\u2028é")
    second.add("b", [-1.5, True])
    with (tmp_path / "answers-0.jsonl").open("a") as stream:
        stream.write('{"key": "c", "ans')
    again = Answers(tmp_path, 0)
    assert again.by_key == {"a": "text\nin lines\u2028é", "b": [-1.5, True]}
    again.add("c", 2.0)
    assert Answers(tmp_path, 5).by_key == {"a": "text\nin lines\u2028é", "b": [-1.5, True], "c": 2.0}
    assert Answers(tmp_path, 0, fresh=True).by_key == {}


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "answers-3.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"answers-3\.jsonl:1 is no answer of an evaluation"):
        Answers(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        Answers(tmp_path / "file")
