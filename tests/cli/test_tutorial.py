"""The tutorial's commands, run in their order in an empty folder, with a tiny model for the one of the package.

Only the numbers of rows and steps are smaller than on the page. The Chinese page has the same commands.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.architecture.test_docs import SHELLS, blocks
from unmask.cli.main import main
from unmask.models.folders import EXAMPLES

DOCS = Path(__file__).resolve().parents[2] / "docs"
SMALLER = (
    (r"--max_steps \d+", "--max_steps 2"),
    (r"--eval_steps \d+", "--eval_steps 2"),
    (r"--limit \d+", "--limit 24"),
    (r"train:\d+", "train:40"),
    (r"test:\d+", "test:4"),
)


def _commands(page: str) -> str:
    found = blocks((DOCS / page).read_text("utf-8"))
    return "".join(block.body for block in found if block.language in SHELLS and block.reason is None)


def _steps(shell: str) -> list[str]:
    """Each command of ours, each Python program, and what stands between them."""
    ours = r"^((?:unmask|python) .*<<'END'\n(?:.*\n)*?END|unmask .*)$"
    return [step.strip() for step in re.split(ours, shell.replace("\\\n", " "), flags=re.MULTILINE) if step.strip()]


def _run(step: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a step in this process where it is ours, so that torch is imported once; the exit status."""
    command, *lines = step.removesuffix("\nEND").split("\n")
    if step.startswith("python"):
        exec("\n".join(lines), {})
        return 0
    if not step.startswith("unmask"):
        return subprocess.run(["bash", "-e", "-c", step]).returncode
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return main(shlex.split(command.partition("<<")[0])[1:])


def test_the_tutorial_works_as_printed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.write_checkpoint(tmp_path_factory.mktemp("tutorial") / "model", max_sequence_length=1024)
    monkeypatch.chdir(tmp_path)
    shell = _commands("tutorial.md")
    for pattern, small in SMALLER:
        shell, times = re.subn(pattern, small, shell)
        assert times, f"{pattern} is not on the page any more"
    monkeypatch.setitem(EXAMPLES, "base", (str(model),))
    for step in _steps(shell):
        assert _run(step, monkeypatch) == 0, step
    before, after = (
        json.loads((tmp_path / f"eval-{when}" / "results.json").read_text()) for when in ("before", "after")
    )
    assert before["metrics"]["em"]["count"] == after["metrics"]["em"]["count"] == 24
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert (tmp_path / "adapter" / "report.html").is_file()


def test_both_languages_have_the_same_commands() -> None:
    assert _commands("tutorial.md") == _commands("zh/tutorial.md")


def test_steps_are_found() -> None:
    shell = "unmask a \\\n  b\nls\npython - <<'END'\nimport unmask\nEND\n"
    shell += "unmask chat \\\n x <<'END'\nunmask d\nEND\nunmask e\n"
    assert _steps(shell) == [
        "unmask a    b",
        "ls",
        "python - <<'END'\nimport unmask\nEND",
        "unmask chat   x <<'END'\nunmask d\nEND",
        "unmask e",
    ]
