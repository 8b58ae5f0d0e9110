"""Writing a checkpoint whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unmask.errors import ConfigError, ResourceError


def free_folder(target: str | os.PathLike[str]) -> Path:
    """The absolute path of a folder to be written, which must be absent or empty.

    Raises:
        ConfigError: there is something there.
    """
    folder = Path(target).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{target} exists and is not empty. Choose another folder.")
    return folder


@contextmanager
def built_aside(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, which gets its name when it is complete; `folder` must be absent or empty.

    Raises:
        ResourceError: it cannot be written.
    """
    aside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield aside
        aside.chmod(0o755)
        os.replace(aside, folder)
    except OSError as error:
        raise ResourceError(
            f"cannot write {folder}: {error.strerror or error}. Free space or choose another folder."
        ) from None
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
