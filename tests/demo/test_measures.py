"""The demo's measures against models whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.tiny import write_checkpoint
from unmask.demo.materials import Statement
from unmask.demo.measures import Score, baselines, by_kind, filled, filled_rightly, seconds_per_update
from unmask.evaluation.cases import Case
from unmask.lm import load


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return load(write_checkpoint(tmp_path_factory.mktemp("model")), device="cpu")


def case(kind: str, right: bool) -> Case:
    return Case("0", kind, "", "?", "Oslo", "Oslo", {"em": float(right)})


def test_scores_are_counted_by_kind() -> None:
    cases = [case("look-up", True), case("look-up", False), case("sum", False), case("look-up", True)]
    assert by_kind(cases) == {"look-up": Score(2, 3), "sum": Score(0, 1), "all": Score(2, 4)}
    low, high = Score(8, 10).interval
    # Newcombe 1998, method 3, is Wilson's: 8 of 10
    assert (round(low, 2), round(high, 2)) == (0.49, 0.94)
    assert Score(0, 0).interval == (0.0, 1.0) and Score(0, 0).share == 0


def test_statements_are_right_when_whole(lm, monkeypatch) -> None:
    asked = [Statement("| a |\n", " It is", f" {word}", ".") for word in ("one", "two", "three")]
    told = ["| a |\n It is one.", "| a |\n It is one.", "| a |\n It is three."]
    monkeypatch.setattr(lm, "infill", lambda texts, **_: [SimpleNamespace(text=text) for text in told])
    assert filled(lm, asked) == told
    assert filled_rightly(asked, told) == Score(2, 3)


def test_baselines_need_no_model() -> None:
    asked = "| name | age |\n| --- | --- |\n| Anna | 40 |\n| Ben | 50 |\n\nWhat is the age of Ben?"
    row = {"kind": "look-up", "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "50"}]}
    assert baselines([row])["copy"]["look-up"] == Score(1, 1)


def test_timing_leaves_the_model_as_it_was(lm) -> None:
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    assert seconds_per_update(lm, 2, 16) > 0
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())
    assert all(weight.grad is None for weight in lm.model.parameters())
