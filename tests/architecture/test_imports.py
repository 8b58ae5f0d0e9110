"""The floors of the house: imports go down only. The contracts themselves are in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package and the contracts that lie in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-c", LINT], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """The package and its contracts again, to be broken."""
    shutil.copy(root / "pyproject.toml", tmp_path)
    shutil.copytree(root / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_imports_go_down_only(root: Path) -> None:
    result = lint(root)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("errors.py", "import unmask.training.arguments", "Imports go down only"),
        ("data/__init__.py", "import unmask.objectives", "Imports go down only"),
        ("registry.py", "def late():\n    import unmask.cli", "Imports go down only"),
        ("generation/__init__.py", "import transformers", "Mathematics and decoding"),
    ],
    ids=["up", "sideways", "inside a function", "outside library"],
)
def test_a_knot_is_found(copy: Path, module: str, line: str, contract: str) -> None:
    with (copy / "src" / "unmask" / module).open("a") as file:
        file.write(f"\n{line}\n")
    result = lint(copy)
    assert result.returncode == 1
    assert [text for text in result.stdout.splitlines() if contract in text and "BROKEN" in text], result.stdout


def test_a_room_without_a_floor_is_found(copy: Path) -> None:
    (copy / "src" / "unmask" / "annex.py").write_text("")
    result = lint(copy)
    assert result.returncode != 0
    assert "annex" in result.stdout + result.stderr
