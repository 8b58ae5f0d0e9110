"""One run at a time in a folder: two would write each other's checkpoints.

The lock is the kernel's, on a file in the folder, so it ends with the process however that ends. Workers of loaders,
which outlive a killed run by seconds, do not inherit it. Where a file system, or Windows, has no such locks, nothing is
locked.
"""

from __future__ import annotations

import errno
import os
import socket
from importlib import import_module
from pathlib import Path
from typing import IO

from unmask.errors import ResourceError

LOCK = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)
_held: list[IO[str]] = []


def hold(folder: Path) -> None:
    """Keep other runs out of a folder until `let_go`, or the end of the process.

    Raises:
        ResourceError: another process holds it.
        OSError: the folder cannot be written.
    """
    place = folder / LOCK
    if os.name != "posix" or _is_held(place):
        return
    file, locks = place.open("a+", encoding="utf-8"), import_module("fcntl")
    try:
        locks.lockf(file, locks.LOCK_EX | locks.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read(200).strip() or "unknown"
        file.close()
        if error.errno in _TAKEN:
            raise ResourceError(
                f"{folder} is in use by another run ({holder}). Wait until it has ended, or choose another output_dir."
            ) from None
        return
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _held.append(file)


def _is_held(place: Path) -> bool:
    """To open and close the file once more would end the lock."""
    return place.exists() and any(os.path.samestat(os.fstat(file.fileno()), place.stat()) for file in _held)


def let_go() -> None:
    """Let other runs into all folders that are held."""
    while _held:
        _held.pop().close()
