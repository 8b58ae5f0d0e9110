"""`unmask merge` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unmask.cli.main import main
from unmask.lm import load
from unmask.models.adapters import LoraSettings, attach_lora, save_adapter
from unmask.models.checkpoints import load_model


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> Path:
    model = load_model(checkpoint)
    attach_lora(model, LoraSettings(r=2))
    # as a finished run leaves it
    save_adapter(model, tmp_path / "run/checkpoint-final")
    return tmp_path / "run"


def test_the_base_is_found(adapter: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "--lora_path", str(adapter), "--merge_path", str(tmp_path / "merged"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["base"] == str(checkpoint) and told["tensors"] == 21
    assert load(tmp_path / "merged", device="cpu").generate("a", max_new_tokens=4, steps=2)


def test_the_parents_command(adapter: Path, checkpoint: Path, tmp_path: Path) -> None:
    words = ["--lora_path", str(adapter), "--base_model_path", str(checkpoint), "--merge_path", str(tmp_path / "m")]
    assert main(["merge", *words]) == 0
    assert (tmp_path / "m/tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--lora_path is missing"),
        (["--lora_path", "x"], "--merge_path is missing"),
        (["--lora_path", "no/where/at/all", "--merge_path", "m"], 'no folder "no/where/at/all"'),
        (["--lora_path", "x", "--merge_path", "m", "--dtype", "int8"], "not one of auto, float32"),
        (["--lora", "x"], 'Did you mean "--lora_path"'),
    ],
)
def test_mistakes(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["merge", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "--help"]) == 0
    assert "unmask merge --lora_path runs/lora --merge_path merged" in capsys.readouterr().out
