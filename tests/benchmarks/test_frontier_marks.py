"""How a story is marked, and that settings are what they say."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks.frontier import measure
from benchmarks.frontier.measure import charged_nll, repeats
from benchmarks.frontier.report import COLOURS
from benchmarks.frontier.settings import BASELINE, CACHES, KNOBS, LENGTHS, Setting, settings

from unmask.errors import ConfigError


class EvenJudge:
    """Gives every token of four the same probability."""

    config = SimpleNamespace(vocab_size=4)

    def __call__(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 4))


class CopyJudge(EvenJudge):
    """Is almost sure that the token it sees comes again."""

    def __call__(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=20.0 * torch.nn.functional.one_hot(input_ids, 4).float())


def test_repeats_are_runs_of_four_seen_before() -> None:
    assert repeats([1, 2, 3, 4, 1, 2, 3, 4, 1]) == [False] * 7 + [True] * 2
    assert repeats([5] * 7) == [False] * 4 + [True] * 3
    assert not any(repeats([1, 2, 3, 1, 2, 4, 1, 2, 5]))


def test_an_even_judge_finds_everything_as_good() -> None:
    assert charged_nll(EvenJudge(), [0], [1, 2, 3]) == pytest.approx(math.log(4))


def test_repeating_oneself_is_charged() -> None:
    sure = charged_nll(CopyJudge(), [1], [1] * 4)
    assert sure < 0.01
    # 16 of the 20 tokens end a run of four that was there
    assert charged_nll(CopyJudge(), [1], [1] * 20) == pytest.approx(16 / 20 * math.log(4), abs=0.01)


def test_nothing_written_is_as_bad_as_guessing() -> None:
    assert charged_nll(CopyJudge(), [1], []) == pytest.approx(math.log(4))


def test_settings_differ_and_hold_every_strategy_on_several_caches() -> None:
    found = settings()
    assert len({setting.name for setting in found}) == len(found)
    assert BASELINE in found
    for strategy in KNOBS:
        assert {setting.cache for setting in found if setting.strategy == strategy} >= {"none", "prefix", "dual"}
    assert {setting.cache for setting in found if setting.strategy == "confidence"} == set(CACHES)
    assert settings("tables") == [*found, *LENGTHS] and settings("sums") == found
    assert len(COLOURS) >= max(len(KNOBS), len(CACHES))


def test_what_one_task_refuses_is_measured_in_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(given: SimpleNamespace, setting: Setting) -> dict[str, Any]:
        if given.model.startswith("stories") and setting is refused:
            raise ConfigError("not with this model")
        return {"marks": [1.0]}

    refused = Setting("revoke", "0.5")
    monkeypatch.setattr(measure, "exam", lambda name, seed, *_: SimpleNamespace(model=f"{name}-{seed}"))
    monkeypatch.setattr(measure, "settings", lambda _: [BASELINE, refused])
    monkeypatch.setattr(measure, "decode", decode)
    for name in ("stories-0", "tables-0", "stories-1", "tables-1"):
        (tmp_path / name / "checkpoint-final").mkdir(parents=True)
    asked = {"models": tmp_path, "shared": tmp_path, "results": tmp_path / "results.jsonl", "questions": 1}
    options = SimpleNamespace(**asked, seeds=2, tasks=["stories", "tables"])
    measure.measure_all(options)
    measure.measure_all(options)  # goes on where it was: nothing twice
    found = [(row["model"], row["setting"]) for row in measure.read(options.results)]
    both = [BASELINE.name, refused.name]
    expected = [("stories-0", BASELINE.name), *(("tables-0", name) for name in both)]
    assert found == [*expected, ("stories-1", BASELINE.name), *(("tables-1", name) for name in both)]
