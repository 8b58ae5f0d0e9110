"""JSON that somebody else wrote, read strictly: what two readers could understand differently is no JSON here.

Knows no configuration and no index.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# the index of a model of ten million tensors is smaller
MOST_BYTES = 2**30


def read_json(path: Path) -> Any:
    """The value in a file.

    Raises:
        ValueError: not UTF-8, not JSON, an object with a key twice, or too large or nested too deep to be read.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes are too many")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python takes the last of two values of a key, other readers the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f'the key "{twice[:80]}" stands there twice')
    return found
