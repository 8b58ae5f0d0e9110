"""Answers chosen by likelihood: the likeliest is taken, whatever the batches; calibration takes a preference away."""

from __future__ import annotations

import json
from math import exp, log
from pathlib import Path
from typing import Any

import pytest

from unmask.errors import ConfigError, DataError
from unmask.evaluation.choices import ChoiceSettings, choose_answers, right_answers
from unmask.lm import DiffusionLM, load
from unmask.objectives.estimators import LikelihoodEstimate


def record(asked: str, answer: str, **beside: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **beside}


@pytest.fixture(scope="module")
def lm(checkpoint: Path) -> DiffusionLM:
    return load(checkpoint, device="cpu")


class Known(DiffusionLM):
    """Says how likely a target is by the number of "y" in the prompt; likes "no" anywhere."""

    asked = 0

    def log_likelihoods(self, pairs: Any, **settings: Any) -> list[LikelihoodEstimate]:
        self.asked += len(pairs)
        found = []
        for prompt, target in pairs:
            shown = self.tokenizer.decode(prompt, skip_special_tokens=True).count("y")
            likes = float(shown) if self.tokenizer.decode(target) == "yes" else 3.0
            found.append(LikelihoodEstimate(likes - 10, 0.1, 1))
        return found


@pytest.fixture
def known(lm: DiffusionLM) -> Known:
    return Known(lm.model, lm.tokenizer)


YES_NO = ChoiceSettings(("no", "yes"))


def test_the_likeliest_is_taken(known: Known) -> None:
    records = [record("yyyy", "yes"), record("yy", "yes"), record("", "no")]
    results = choose_answers(known, records, YES_NO)
    assert [case.prediction for case in results.cases] == ["yes", "no", "no"]
    assert results.totals["em"].mean == pytest.approx(2 / 3)
    # four letters against the three that "no" is worth
    assert results.cases[0].metrics["probability"] == pytest.approx(1 / (1 + exp(-1)))
    assert results.cases[0].choices == {"no": [-7.0, 0.1], "yes": [-6.0, 0.1]}
    assert not any("closer than" in note for note in results.notes)


def test_calibration_takes_away_what_is_liked_anywhere(known: Known) -> None:
    results = choose_answers(
        known, [record("yy", "yes"), record("", "no")], ChoiceSettings(("no", "yes"), calibrate=True)
    )
    assert [case.prediction for case in results.cases] == ["yes", "no"]
    first, second = (case.choices for case in results.cases)
    assert first is not None and first["yes"] == pytest.approx([2.0, 0.1 * 2**0.5]) and first["no"][0] == 0
    # as likely as each other: the first; and nobody can tell
    assert second is not None and second["yes"][0] == second["no"][0] == 0
    assert results.notes == ["1 of 2 choices are closer than two standard errors of their masks"]


def test_of_a_real_model_scores_are_its_log_likelihoods(lm: DiffusionLM) -> None:
    records = [record("| a |\n| --- |\n| 1 |\n\nIs it?", "yes"), record("Is it?", "no")]
    found = choose_answers(lm, records, ChoiceSettings(("no", "yes"), samples=4, seed=5, batch_size=3))
    for case, asked in zip(found.cases, records, strict=True):
        pairs = [(asked["messages"][:1], choice) for choice in ("no", "yes")]
        by_hand = lm.log_likelihoods(pairs, samples=4, seed=5)
        assert case.choices is not None
        assert [case.choices[name][0] for name in ("no", "yes")] == pytest.approx(
            [one.mean for one in by_hand], rel=1e-5
        )
        odds = log(case.metrics["probability"] / (1 - case.metrics["probability"]))
        gap = by_hand[1].mean - by_hand[0].mean
        assert odds == pytest.approx(gap if case.gold == "yes" else -gap, rel=1e-4)


def test_it_goes_on_and_says_what_does_not_fit(known: Known, tmp_path: Path) -> None:
    file, records = tmp_path / "cases.jsonl", [record("y" * 9, "yes"), record("y" * 400, "yes")]
    results = choose_answers(known, records, YES_NO, cases_file=file)
    assert results.cases[1].finish_reason == "too_long" and results.cases[1].metrics == {"em": 0.0, "probability": 0.0}
    asked = known.asked
    assert choose_answers(known, records, YES_NO, cases_file=file).cases == results.cases and known.asked == asked
    assert json.loads(file.read_text().splitlines()[0])["choices"] == {"no": [-7.0, 0.1], "yes": [-1.0, 0.1]}
    with pytest.raises(ConfigError, match="other settings"):
        choose_answers(known, records, ChoiceSettings(("no", "yes"), calibrate=True), cases_file=file)


def test_of_one_sample_no_error_is_known(lm: DiffusionLM, tmp_path: Path) -> None:
    records, file = [record("yyyy", "yes sir"), record("yy", "not me")], tmp_path / "cases.jsonl"
    settings = ChoiceSettings(("yes sir", "not me"), calibrate=True, samples=1)
    for _ in range(2):
        results = choose_answers(lm, records, settings, cases_file=file)
        assert [error for case in results.cases for _, error in (case.choices or {}).values()] == [None] * 4
        assert not any("closer than" in note for note in results.notes)
    assert "NaN" not in file.read_text("utf-8")


def test_choices_are_the_right_answers_where_they_are_few() -> None:
    assert right_answers([record("a", "yes"), record("b", "no"), record("c", "yes")]) == ("no", "yes")
    with pytest.raises(DataError, match="11 different right ones; 2 to 10 can be"):
        right_answers([record("a", str(number)) for number in range(11)])
    with pytest.raises(ConfigError, match="give two or more different answers"):
        ChoiceSettings(("yes", "yes"))
