"""What a checkpoint consists of, to the byte: `manifest.json` beside its files. Knows no run and no model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from unmask import __version__

MANIFEST = "manifest.json"
_FORMAT = 1


def seal(folder: Path) -> None:
    """Write the manifest of all files that are in a folder."""
    files = {name: _described(path) for name, path in _files(folder)}
    written = {"format": _FORMAT, "unmask": __version__, "files": files}
    (folder / MANIFEST).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def is_sealed(folder: Path) -> bool:
    """Whether there is a manifest; checkpoints had none before."""
    return (folder / MANIFEST).is_file()


def fault(folder: Path) -> str | None:
    """Why a sealed folder is not what was written, as the end of a sentence; None: every byte is as it was."""
    try:
        written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if written["format"] != _FORMAT:
            return f"it was written by unmask {written['unmask']} in a form (number {written['format']}) unknown here"
        return _first_difference(folder, written["files"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _first_difference(folder: Path, files: dict[str, Any]) -> str | None:
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{name} has {size:,} bytes instead of {expected['bytes']:,}"
    # sizes first, of all files: they cost nothing
    for name, expected in files.items():
        if _described(folder / name) != expected:
            return f"the bytes of {name} have changed"
    return None


def _files(folder: Path) -> list[tuple[str, Path]]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return [(path.relative_to(folder).as_posix(), path) for path in found]


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
