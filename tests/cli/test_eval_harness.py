"""`unmask eval --tasks`: what it refuses before the harness is looked for."""

from __future__ import annotations

import pytest

from unmask.cli import eval_harness
from unmask.cli.main import main

KNOWN = ["--tasks", "gsm8k,arc", "--model_name_or_path", "DIR"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--tasks is missing"),
        (["--tasks", "arc", "--fresh"], "--fresh asks again what output_path has"),
        (["--tasks", "arc", "--log_samples"], "--log_samples writes to output_path"),
        (["--tasks", "arc", "--infill_tokens", "8-4"], '--infill_tokens is "8-4"'),
        (["--tasks", "arc", "--batch_size", "0"], "--batch_size is 0"),
        (["--tasks", "arc", "--batch_size", "many"], '"many" is not'),
        (["--tasks", "arc", "--batch_size", "auto:x"], '"auto:x" is not'),
        (["--tasks", "arc", "--model_args", "batch_size=0"], "--batch_size is 0"),
    ],
)
def test_contradictions_are_refused(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eval_harness, "find_spec", lambda _: True)
    assert main(["eval", "--model_name_or_path", "DIR", *words]) == 2
    assert told in capsys.readouterr().err


def test_without_the_harness_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eval_harness, "find_spec", lambda _: None)
    assert main(["eval", *KNOWN]) == 2
    assert 'not installed. Install it: pip install "unmask[eval]"' in capsys.readouterr().err


def test_the_overview_names_every_evaluation_and_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--tasks a,b" in told and "unmask eval tables --help" in told and "--num_fewshot" in told
    assert main(["eval", "nothing"]) == 2
    assert "or --tasks for those of lm-evaluation-harness" in capsys.readouterr().err
