"""What is typed in a chat to change its options, and what the chat writes; turns are in `test_sampling_verbs`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tests.tiny import write_checkpoint, write_left_to_right
from unmask.cli import chat as chat_verb
from unmask.cli.chat import Chat
from unmask.cli.main import main
from unmask.generation.options import GenerationOptions
from unmask.lm import DiffusionLM, load
from unmask.registry import CACHES


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def lm(model: str) -> DiffusionLM:
    return load(model, device="cpu")


@pytest.fixture
def chat(lm: DiffusionLM) -> Chat:
    return Chat(lm, GenerationOptions(max_new_tokens=4, steps=2), chat_verb.table())


@pytest.mark.parametrize(
    ("typed", "stops", "told"),
    [
        (r"\n", ("\n",), r'stop is ["\n"]'),
        (r'["\n", "User: ", "[INST]"]', ("\n", "User: ", "[INST]"), r'stop is ["\n", "User: ", "[INST]"]'),
        ("and so on,", ("and so on,",), 'stop is ["and so on,"]'),
        ("[INST]", ("[INST]",), 'stop is ["[INST]"]'),
        ("[1]", ("[1]",), 'stop is ["[1]"]'),
        ('["null"]', ("null",), 'stop is ["null"]'),
        ("[]", (), "stop is []"),
        ("null", (), "stop is []"),
        ("default", (), "stop is []"),
    ],
)
def test_stop_texts(chat: Chat, typed: str, stops: tuple[str, ...], told: str) -> None:
    chat.command("/set stop before")
    assert chat.command(f"/set stop {typed}") == told
    assert chat.options.stop == stops
    # what is told can be typed again
    assert chat.command(f"/set {told.replace(' is ', ' ', 1)}") == told and chat.options.stop == stops


def test_a_grammar_may_follow_a_stop_that_was_put_back(chat: Chat) -> None:
    pytest.importorskip("outlines_core", reason="the extra `grammar` is not installed")
    chat.command("/set stop x")
    assert "stop says otherwise" in chat.command("/set regex [0-9]{3}")
    chat.command("/set stop null")
    assert chat.command("/set regex [0-9]{3}") == "regex is [0-9]{3}"
    assert chat.command("/set regex null") == "regex is null" and chat.options.regex is None


def test_every_option_goes_back_to_its_default(chat: Chat) -> None:
    plain = GenerationOptions()
    for name, typed in (
        ("temperature", "0.7"),
        ("guidance_scale", "1"),
        ("suppress_tokens", "5,6"),
        ("begin_suppress_tokens", "[7, 8]"),
        ("early_stop", "false"),
        ("strategy", "margin"),
        ("top_k", "3"),
    ):
        chat.command(f"/set {name} {typed}")
        assert getattr(chat.options, name) != getattr(plain, name), name
        chat.command(f"/set {name} {'null' if name in ('suppress_tokens', 'temperature') else 'default'}")
        assert getattr(chat.options, name) == getattr(plain, name), name
    # null is a value of this one: the whole canvas
    assert chat.command("/set block_size null") == "block_size is null" and chat.options.block_size is None
    assert chat.command("/set block_size default") == "block_size is 32"
    assert "/set NAME default" in chat.command("/help")


def test_the_default_of_blocks_is_the_model_s(tmp_path: Path) -> None:
    lm = load(write_checkpoint(tmp_path / "blocks", attention="block_causal", block_size=4), device="cpu")
    chat = Chat(lm, GenerationOptions(max_new_tokens=4, steps=2, block_size=2), chat_verb.table())
    assert chat.command("/set block_size default") == "block_size is 4"


def test_what_the_model_cannot_do_is_refused_at_once(chat: Chat, model: str, capsys, monkeypatch) -> None:
    before = chat.options
    assert 'cache "block" is for blocks that see nothing behind them' in chat.command("/set cache block")
    assert "token id 99999 is unknown" in chat.command("/set suppress_tokens 99999")
    assert "leaves prompt 0 room for 4 new tokens" in chat.command("/set min_new_tokens 50")
    assert "the model was made for 256" in chat.command("/set max_new_tokens 300")
    assert chat.options == before
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\n")))
    assert main(["chat", model, "--cache", "block"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and 'cache "block" is for blocks' in told.err and "/clear" not in told.err


def test_what_an_option_is_for_is_told(chat: Chat) -> None:
    assert chat.command("/set factor 3") == "factor is 3.0 (strategy confidence does not use it)"
    assert chat.command("/set strategy factor") == "strategy is factor"
    assert chat.command("/set factor 2") == "factor is 2.0"


def test_every_cache_and_strategy_may_be_tried(tmp_path: Path) -> None:
    lm = load(write_left_to_right(tmp_path / "llama"), device="cpu")
    chat = Chat(lm, GenerationOptions(max_new_tokens=4, steps=2), chat_verb.table())
    assert "this one is autoregressive" in chat.command("/set guidance_scale 1")
    for name in CACHES.names():
        accepted = chat.command(f"/set cache {name}") == f"cache is {name}"
        assert accepted == (name in ("block", "none")), name


def test_the_last_answer_s_trace_is_kept(model: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\nand now?\n")))
    assert main(["chat", model, "--max_new_tokens", "4", "--steps", "2", "--trace", "t.json"]) == 0
    answers = capsys.readouterr().out.splitlines()
    (row,) = json.loads(Path("t.json").read_text("utf-8"))["rows"]
    assert [message["content"] for message in row["prompt"]] == ["hello", answers[0], "and now?"]
    assert row["text"].strip() == answers[1]
    assert sum(len(commit["positions"]) for commit in row["commits"]) == 4
    assert main(["chat", model, "--trace", "t.txt"]) == 2 and "must end in .html" in capsys.readouterr().err
