"""Checkpoints in their places: moved there whole, found again, the oldest deleted. What is in them is not known here.

A checkpoint is written in a hidden folder beside its place, every file of it and the folder reach the disk, and only
then does it get its name; a name therefore always stands for something complete. Deleting goes the other way round. A
kill at any moment, or a power cut, leaves at most hidden folders, which the next run clears away.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
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
    return sorted((path for path in found if os.path.isfile(path / STATE) or _is_closed(path)), key=step_of)


def _is_closed(folder: Path) -> bool:
    """Whether nobody lets us look into a folder, as where another user wrote it."""
    return folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)


def step_of(checkpoint: Path) -> int:
    """The update that a checkpoint was written after."""
    return int(checkpoint.name.rpartition("-")[2])


def is_begun(output_dir: Path) -> bool:
    """Whether there is a checkpoint, be it one that was about to be replaced when its run ended."""
    replaced = (_NUMBERED.match(path.name.removeprefix(".")) for path in _hidden_in(output_dir, _REPLACED))
    return bool(checkpoints(output_dir)) or any(replaced)


def newest(output_dir: Path) -> Found:
    """The newest checkpoint whose every byte is as it was written; one from before manifests is taken as it is."""
    return newest_of(reversed(checkpoints(output_dir)))


def newest_of(candidates: Iterable[Path]) -> Found:
    """The first of them whose every byte is as it was written."""
    passed_over: list[str] = []
    for checkpoint in candidates:
        is_plain = not _is_closed(checkpoint) and not manifest.is_sealed(checkpoint)
        fault = None if is_plain else manifest.fault(checkpoint)
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
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    except BaseException:
        with suppress(OSError):
            give_back(folder.parent)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    flush_names(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def rotate(output_dir: Path, keep: int | None, best: str | None) -> str | None:
    """Delete the oldest checkpoints beyond `keep`, never the best, nor the newest: that one was just written whole.

    Returns:
        Why one that should be is not deleted, a line for the user.
    """
    if not keep or keep < 1:
        return None
    found = checkpoints(output_dir)
    spared = {found[-1]} | ({Path(best)} if best else set()) if found else set()
    surplus, said = len(found) - keep, None
    for path in [path for path in found if path not in spared][: max(surplus, 0)]:
        try:
            _delete(path)
        except OSError as error:
            said = f"warning: {path} should make room for newer ones and cannot be deleted: {error.strerror}"
    return said


def settle(output_dir: Path) -> None:
    """Clear away what an interrupted run left behind; a checkpoint that was about to be replaced gets its name back."""
    give_back(output_dir)
    for kind in (_PARTIAL, _REPLACED, _DELETED):
        for path in _hidden_in(output_dir, kind):
            shutil.rmtree(path, ignore_errors=True)


def give_back(output_dir: Path) -> None:
    """Give a checkpoint that was about to be replaced its name back, where nothing has taken it."""
    for path in _hidden_in(output_dir, _REPLACED):
        named = output_dir / path.name.removeprefix(".").removesuffix(f".{_REPLACED}")
        if not named.exists():
            path.rename(named)


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


def _hidden_in(output_dir: Path, kind: str) -> list[Path]:
    return [path for name in ("checkpoint", "replay") for path in output_dir.glob(f".{name}-*.{kind}")]
