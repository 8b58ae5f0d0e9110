"""The commands of docs/data.md, run in their order in an empty folder, with a tiny model for the one of the package."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from unmask.cli.main import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def _steps(text: str) -> list[str]:
    """The shell blocks as single steps: each command of ours, and what stands between them."""
    steps: list[str] = []
    for language, body in re.findall(r"^```(bash|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language == "console":
            body = "\n".join(line.removeprefix("$ ") for line in body.splitlines() if line.startswith("$ "))
        steps += re.split(r"^(unmask .*)$", body.replace("\\\n", " "), flags=re.MULTILINE)
    return [step for step in steps if step.strip()]


def test_the_page_runs_as_printed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text("utf-8")
    refused = []
    for step in _steps(page.replace("example:base", str(checkpoint))):
        if not step.startswith("unmask "):
            subprocess.run(["bash", "-e", "-c", step], check=True)
        elif main(shlex.split(step)[1:]):
            refused.append(capsys.readouterr().err.strip().splitlines()[-1])
    # The last one shows a bad row; its message is on the page.
    assert len(refused) == 1 and refused[0] in page
    assert {"talk-tokens", "text-tokens", "text-arrays"} <= {item.name for item in tmp_path.iterdir()}
    assert not (tmp_path / "run").exists()
