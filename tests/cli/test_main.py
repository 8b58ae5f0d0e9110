"""The command itself: verbs, exit codes, what it loads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

import unmask
from unmask.cli import main as cli
from unmask.cli.main import VERBS, main
from unmask.errors import DataError

Refusal = Callable[..., str]


def test_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"], ["-h"], [" ", "--help"]):
        assert main(argv) == 0
        told = capsys.readouterr().out
        assert all(f"\n  {verb} " in told for verb in VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["unmask", unmask.__version__]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("trian", 'no command "trian". Did you mean "sft" or "pretrain"?'),
        ("train", 'Did you mean "sft" or "pretrain"?'),
        ("pretrian", 'Did you mean "pretrain"?'),
        ("genrate", 'Did you mean "generate"?'),
        ("finetune", 'Did you mean "sft"?'),
        ("zzzz", 'no command "zzzz". Commands: demo, pretrain, sft'),
        ("--model", 'the first word must be a command, got the option "--model"'),
    ],
)
def test_unknown_verbs(refusal: Refusal, word: str, hint: str) -> None:
    assert hint in refusal(word)


def fail_with(error: BaseException) -> Callable[[list[str]], int]:
    def run(argv: list[str]) -> int:
        raise error

    return run


@pytest.mark.parametrize(("error", "code"), [(DataError("two\nlines"), 2), (KeyboardInterrupt(), 130)])
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    monkeypatch.setattr(cli, "_entry", lambda word: fail_with(error))
    assert main(["sft"]) == code
    assert capsys.readouterr().err == ("unmask: two lines\n" if code == 2 else "")
    for argv in (["--debug", "sft"], ["sft", "--debug"]):
        with pytest.raises(type(error)):
            main(argv)


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_entry", lambda word: fail_with(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["sft"])


def test_debug_with_a_value_is_the_option_of_transformers(settings_of: Callable[..., object]) -> None:
    settings = settings_of("sft", "--model", "m", "--dataset_args", "d", "--debug", "underflow_overflow")
    assert settings.trainer["debug"] == "underflow_overflow"  # type: ignore[attr-defined]


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS), ["sft", "--lr", "x"], ["show", "aliases"]],
)
def test_what_needs_no_model_loads_neither_torch_nor_transformers(argv: list[str]) -> None:
    told = run_python(
        "import json, sys\nfrom unmask.cli.main import main\n"
        f"main({argv!r})\nprint(json.dumps(sorted({{'torch', 'transformers', 'datasets'}} & set(sys.modules))))"
    )
    assert json.loads(told.splitlines()[-1]) == []


def test_the_reader_of_a_pipe_may_leave() -> None:
    writer = f"{sys.executable} -m unmask sft --help"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {writer} | true"], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_exit_code_of_the_process() -> None:
    done = subprocess.run([sys.executable, "-m", "unmask", "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: unmask {verb}")
    words = {"eval": ["tables"]}.get(verb, [])
    assert main([verb, *words, "--no_such_option"]) == 2
    assert 'unknown option "--no_such_option"' in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["sft", "pretrain"])
def test_help_shows_defaults_in_groups(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for title in ("Which model is trained, and which part of it:", "What is minimised:", "Which data"):
        assert title in told
    told_epsilon = "Smallest time, where tokens are masked one by one. (type: float, default: 0.001)"
    assert f"--time_epsilon TIME_EPSILON {told_epsilon}" in told
    assert "--logging_steps" in told
    rate = {"sft": "2e-05", "pretrain": "0.0003"}[verb]
    assert f"The initial learning rate for the optimizer. (type: float, default: {rate})" in told
    assert "neftune" not in told
    assert "target_modules+" not in told
