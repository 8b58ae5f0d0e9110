"""Checkpoints in their places: moved there whole, found again, the oldest deleted. What is in them is not known here.

A checkpoint is written in a hidden folder beside its place, every file of it and the folder reach the disk, and only
then does it get its name; a name therefore always stands for something complete. Deleting goes the other way round. A
kill at any moment, or a power cut, leaves at most hidden folders, which the next run clears away.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unmask.data.writing import flush_folder
from unmask.errors import ResourceError
from unmask.training import manifest

# every checkpoint has it, those from before there were manifests too
STATE = "trainer_state.json"
# of hidden folders, which are no checkpoints: being written, about to be replaced, being deleted
_PARTIAL, _REPLACED, _DELETED = "partial", "replaced", "deleted"
_NUMBERED = re.compile(r"checkpoint-\d+")


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that is as it was written, and why newer ones are not: lines for the user."""

    newest: Path | None
    passed_over: tuple[str, ...]


def checkpoints(output_dir: Path) -> list[Path]:
    """A run's checkpoints, oldest first, going by their names."""
    found = [path for path in output_dir.glob("checkpoint-*") if _NUMBERED.fullmatch(path.name)]
    return sorted((path for path in found if (path / STATE).is_file()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The update that a checkpoint was written after."""
    return int(checkpoint.name.rpartition("-")[2])


def newest(output_dir: Path) -> Found:
    """The newest checkpoint whose every byte is as it was written; one from before manifests is taken as it is."""
    passed_over: list[str] = []
    for checkpoint in reversed(checkpoints(output_dir)):
        fault = manifest.fault(checkpoint) if manifest.is_sealed(checkpoint) else None
        if fault is None:
            return Found(checkpoint, tuple(passed_over))
        passed_over.append(f"{checkpoint} is passed over: {fault}")
    return Found(None, tuple(passed_over))


def write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder, and give it its name when all of it is on the disk; an older one gives way then."""
    partial, replaced = _hidden(folder, _PARTIAL), _hidden(folder, _REPLACED)
    for left in (partial, replaced):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        manifest.seal(partial)
        flush_folder(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    flush_names(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def rotate(output_dir: Path, keep: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints beyond `keep`, never the best, nor the newest: that one was just written whole."""
    if not keep or keep < 1:
        return
    found = checkpoints(output_dir)
    spared = {found[-1]} | ({Path(best)} if best else set()) if found else set()
    surplus = len(found) - keep
    for path in [path for path in found if path not in spared][: max(surplus, 0)]:
        _delete(path)


def settle(output_dir: Path) -> None:
    """Clear away what an interrupted run left behind; a checkpoint that was about to be replaced gets its name back."""
    for kind, path in list(_left_behind(output_dir)):
        named = output_dir / path.name.removeprefix(".").removesuffix(f".{kind}")
        if kind == _REPLACED and not named.exists():
            path.rename(named)
        else:
            shutil.rmtree(path, ignore_errors=True)


def check_room(folder: Path, needed: int) -> None:
    """Refuse to begin what would not fit.

    Raises:
        ResourceError: the disk has fewer than `needed` bytes left.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(f"a checkpoint takes {needed / 1e6:,.1f} MB and {folder} has {free / 1e6:,.1f} MB left")


def flush_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _hidden(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}")


def _delete(folder: Path) -> None:
    """The name goes first, so that what is half deleted is no checkpoint."""
    hidden = _hidden(folder, _DELETED)
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _left_behind(output_dir: Path) -> Iterator[tuple[str, Path]]:
    for kind in (_PARTIAL, _REPLACED, _DELETED):
        for path in output_dir.glob(f".checkpoint-*.{kind}"):
            yield kind, path
