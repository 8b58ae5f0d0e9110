"""What the pages promise: their Python blocks run, and the commands in their shell blocks exist.

A block that cannot run here says why in a comment on the line before it: `<!-- no-run: needs a GPU -->`. Blocks of one
page share their variables, as a reader who types them in would. For a model that a page loads by name a tiny one with
random weights stands in. Nothing here knows what the commands mean.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
import traceback
from contextlib import chdir
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from huggingface_hub import constants

from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md")))
]
SHELLS = {"bash", "sh", "shell", "console"}

BLOCK = re.compile(
    r"^(?:<!--\s*no-run:\s*(?P<reason>.+?)\s*-->\n+)?^```(?P<language>[\w-]*)[^\n]*\n(?P<body>.*?)^```[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
LOADED = re.compile(r"""unmask\.load\(\s*["']([^"']+)["']""")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page; `reason` says why it must not run, if so."""

    language: str
    body: str
    reason: str | None


def blocks(text: str) -> list[Block]:
    return [Block(match["language"], match["body"], match["reason"]) for match in BLOCK.finditer(text)]


def commands(block: Block) -> list[list[str]]:
    """The words after `unmask` of each command in a shell block: verb first. Output and comments are passed over."""
    lines = block.body.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [words for line in lines if "unmask" in line for words in called(line)]


def called(line: str) -> list[list[str]]:
    """What `unmask` is called with in one line, however it is started: bare, from a folder, or as `-m unmask`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("();<>|&"):
            parts.append([])
        else:
            parts[-1].append(word)
    names = [next((i for i, word in enumerate(part) if word.split("/")[-1] == "unmask"), None) for part in parts]
    found = [
        part[name + 1 :] for part, name in zip(parts, names, strict=True) if name is not None and "pip" not in part
    ]
    return [words for words in found if words]


def flags(words: list[str]) -> list[str]:
    return [word.split("=")[0] for word in words if word.startswith("--")]


def asked_for_help(words: list[str]) -> tuple[str, ...]:
    """The words that choose a help text: a verb, or a verb and what stands before its options where that matters."""
    if words[0] not in {"eval", "prepare"}:
        return (words[0],)
    return tuple(itertools.takewhile(lambda word: not word.startswith("-"), words))


@cache
def accepted(*verb: str) -> frozenset[str]:
    """Every option that a verb's help names, for the training verbs the library's too, and their other spellings."""
    from unmask.cli.aliases import ALIASES, CONFIG_NAMES

    result = subprocess.run([sys.executable, "-m", "unmask", *verb, "--help"], capture_output=True, text=True)
    assert result.returncode == 0, f"unmask {' '.join(verb)} --help: {result.stderr}"
    named = {flag.removeprefix("--") for flag in re.findall(r"--\w[\w-]*", result.stdout)}
    if verb[0] in {"pretrain", "sft"}:
        from transformers import TrainingArguments

        named |= {field.name for field in dataclasses.fields(TrainingArguments)}
    spellings = {name for name, alias in ALIASES.items() if alias.target in named}
    return frozenset(f"--{name}" for name in {*named, *spellings, *CONFIG_NAMES, "help", "debug"})


def run_python(text: str, folder: Path) -> str:
    """Run the Python blocks of a page in `folder`; what went wrong, if anything."""
    if importlib.util.find_spec("unmask.lm") is None:
        pytest.skip("unmask.lm is not written yet")
    program = "\n".join(block.body for block in blocks(text) if block.language == "python" and block.reason is None)
    for name in set(LOADED.findall(program)):
        tiny.write_checkpoint(folder / name, max_sequence_length=1024)
    # not in a process of their own, which would spend most of its time on importing torch
    try:
        with chdir(folder), patch.object(constants, "HF_HUB_OFFLINE", True):
            exec(compile(program, "page", "exec"), {"__name__": "page"})
    except Exception:
        return traceback.format_exc()
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page: str, tmp_path: Path) -> None:
    text = (ROOT / page).read_text("utf-8")
    reasons = [block.reason for block in blocks(text) if block.language == "python"]
    if None not in reasons:
        pytest.skip(f"no Python block to run {[*reasons]}")
    assert not run_python(text, tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    shell = [block for block in blocks((ROOT / page).read_text("utf-8")) if block.language in SHELLS]
    typed = [words for block in shell if block.reason is None for words in commands(block)]
    if not typed:
        pytest.skip("no command of ours")
    if importlib.util.find_spec("unmask.cli.main") is None:
        pytest.skip("the command line is not written yet")
    from unmask.cli.main import VERBS

    known = [words for words in typed if words[0] in VERBS]
    unknown = [f"unmask {words[0]}" for words in typed if words not in known and not words[0].startswith("-")]
    unknown += [
        f"unmask {words[0]} {flag}"
        for words in known
        for flag in flags(words)
        if flag not in accepted(*asked_for_help(words))
    ]
    assert not unknown, f"{page} has commands that do not exist: {unknown}"


def test_blocks_are_found() -> None:
    page = "Text\n\n```python\na = 1\n```\n\n<!-- no-run: needs a GPU -->\n```python\nb\n```\n```text\nc\n```\n"
    assert blocks(page) == [
        Block("python", "a = 1\n", None),
        Block("python", "b\n", "needs a GPU"),
        Block("text", "c\n", None),
    ]


def test_commands_are_found() -> None:
    body = """# unmask is not typed here
pip install unmask
unmask sft --config a.yaml \\
    --lr=1e-4  # unmask demo
accelerate launch --num_processes 2 -m unmask pretrain --r 8 | tee log
.venv/bin/unmask demo && unmask show > out
OMP_NUM_THREADS=1 python -m unmask chat --prompt "a; b | c"
"""
    assert commands(Block("bash", body, None)) == [
        ["sft", "--config", "a.yaml", "--lr=1e-4"],
        ["pretrain", "--r", "8"],
        ["demo"],
        ["show"],
        ["chat", "--prompt", "a; b | c"],
    ]
    assert commands(Block("console", "$ unmask demo\nunmask says hello\n", None)) == [["demo"]]
    assert flags(["sft", "--config", "a.yaml", "--lr=1e-4"]) == ["--config", "--lr"]


def test_python_blocks_share_variables_and_fail_aloud(tmp_path: Path) -> None:
    page = "```python\na = 0\n```\n```python\n{} / a\n```\n"
    assert "ZeroDivisionError" in run_python(page.format(1), tmp_path)
    assert run_python(page.format("'x' or 1"), tmp_path) == ""


def test_a_model_stands_in(tmp_path: Path) -> None:
    if importlib.util.find_spec("unmask.lm") is None:
        pytest.skip("unmask.lm is not written yet")
    import unmask

    assert LOADED.findall('lm = unmask.load("org/model", device="cpu")') == ["org/model"]
    tiny.write_checkpoint(tmp_path / "org" / "model")
    lm = unmask.load(str(tmp_path / "org" / "model"), device="cpu")
    assert lm.tokenizer.decode(lm.tokenizer.encode("Any text: é")) == "Any text: é"
