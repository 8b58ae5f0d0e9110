"""`unmask convert` on the command line: what it prints, and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.convert.test_adapt import source
from unmask.cli.main import main


def test_it_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = source(tmp_path / "old", "mistral", sliding_window=8)
    new = tmp_path / "new"
    assert main(["convert", "--model", str(old), "--output_dir", str(new), "--to", "llada"]) == 0
    told, notes = capsys.readouterr()
    assert notes == ""
    assert "every token now sees every other" in told and "sliding window of 8 tokens is dropped" in told
    assert "mask token <|mdm_mask|>, id 0: the tokenizer had it" in told
    assert f"now: unmask pretrain --model_name_or_path {new}" in told


def test_it_says_how_blocks_are_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = source(tmp_path / "old", "llama"), tmp_path / "new"
    argv = ["convert", "--model", str(old), "--output_dir", str(new), "--attention", "block_causal"]
    assert main([*argv, "--block_length", "8"]) == 0
    told = capsys.readouterr()
    assert "every token now sees its block of 8 and those before it" in told.out
    assert f"now: unmask pretrain --model_name_or_path {new} --objective block --block_size 8\n" in told.out
    assert "block_length is read as block_size" in told.err


def test_it_reports_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = source(tmp_path / "old", "qwen2")
    assert main(["convert", "--model", str(old), "--output_dir", str(tmp_path / "new"), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["folder"], done["family"], done["mask_token_id"]) == (str(tmp_path / "new"), "a2d-qwen2", 262)


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        (["--output_dir", "x"], "model_name_or_path is missing"),
        (["--model", "x"], "output_dir is missing"),
        (["--model", "x", "--output_dir", "y", "--to", "gpt"], '"gpt" is not one of a2d, llada, dream'),
        (["--model", "x", "--output_dir", "y"], 'no folder "x"'),
        (["--model", "x", "--output_dir", "y", "--mask_tokn", "z"], 'Did you mean "--mask_token"'),
    ],
)
def test_mistakes_are_sentences(argv: list[str], phrase: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", *argv]) == 2
    told = capsys.readouterr()
    assert phrase in told.err and told.out == ""
