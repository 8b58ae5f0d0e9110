"""Every verb that writes decodes a block-causal checkpoint in its own blocks, unless a size is given."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tests.tiny import write_checkpoint
from unmask.cli import chat as chat_verb
from unmask.cli.main import main
from unmask.lm import load

LENGTH = ("--max_new_tokens", "12", "--steps", "12", "--early_stop", "false")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("blocks"), attention="block_causal", block_size=4))


def written(model: str, size: int) -> str:
    settings = {"max_new_tokens": 12, "steps": 12, "early_stop": False, "block_size": size}
    return load(model, device="cpu").generate("One", **settings)[0].text


@pytest.mark.parametrize(("flags", "size"), [((), 4), (("--block_size", "8"), 8), (("--block_length", "32"), 32)])
def test_generate(model: str, flags: tuple[str, ...], size: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "One", "--model", model, "--json", *LENGTH, *flags]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["text"] == written(model, size)


def test_generate_from_a_configuration_file(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "how.yaml").write_text("block_size: 8\n")
    assert main(["generate", "One", "--model", model, "--json", *LENGTH, "--config", str(tmp_path / "how.yaml")]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["text"] == written(model, 8)


@pytest.mark.parametrize(("flags", "size"), [((), 4), (("--block_size", "8"), 8)])
def test_a_file_of_prompts(model: str, flags: tuple[str, ...], size: int, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "One"}) + "\n")
    files = ("--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl"))
    for _ in range(2):
        assert main(["generate", "--model", model, *files, *LENGTH, *flags]) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["text"] == written(model, size)


@pytest.mark.parametrize(("flags", "size"), [((), 4), (("--block_size", "8"), 8)])
def test_chat(model: str, flags: tuple[str, ...], size: int, monkeypatch, capsys) -> None:
    monkeypatch.setattr(chat_verb, "piped_lines", lambda: lambda prompt: lines.pop(0) if lines else _end())
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    lines = ["One", "/show"]
    assert main(["chat", model, "--chat_template", "false", *LENGTH, *flags]) == 0
    told = capsys.readouterr()
    assert told.out == written(model, size) + "\n"
    assert any(line.split() == ["block_size", str(size)] for line in told.err.splitlines())


def _end() -> str:
    raise EOFError


@pytest.mark.parametrize(("flags", "size"), [((), 4), (("--block_size", "8"), 8)])
def test_eval_tables(model: str, flags: tuple[str, ...], size: int, tmp_path: Path, capsys) -> None:
    asked = [{"role": "user", "content": "One"}, {"role": "assistant", "content": "1"}]
    (tmp_path / "asked.jsonl").write_text(json.dumps({"messages": asked}) + "\n")
    named = ("--model_name_or_path", model, "--dataset_args", str(tmp_path / "asked.jsonl"))
    assert main(["eval", "tables", *named, "--max_new_tokens", "8", "--json", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["decoding"]["block_size"] == size
