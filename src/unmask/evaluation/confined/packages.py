"""Finds a few packages outside the standard library by their folders alone, and none of their neighbours."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


class Packages:
    """Name -> folder of what can be imported."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = folders

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """What Python's import asks of everyone in `sys.meta_path`."""
        from importlib.util import spec_from_file_location

        folder = self._folders.get(name)
        if folder is None:
            return None
        return spec_from_file_location(name, f"{folder}/__init__.py", submodule_search_locations=[folder])

    def offer(self) -> None:
        """Let them be imported from here on."""
        sys.meta_path.append(self)
