"""What the architecture tests read: the project's root and the text of every source file."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder that holds pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def sources() -> dict[str, str]:
    """Text of each Python file of the package by its path below `src/unmask`, with forward slashes."""
    package = ROOT / "src" / "unmask"
    return {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in sorted(package.rglob("*.py"))}
