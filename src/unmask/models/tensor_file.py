"""Tensors into a safetensors file: whole or not at all, and open to whom a new file is open. Knows no model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write contiguous tensors on the CPU, which may live in the very file that is replaced.

    Raises:
        OSError, SafetensorError: the file cannot be written.
    """
    draft = path.with_name(f"{path.name}.part")
    # safetensors keeps its files to their owner; what others may do is for the user's mask to say
    draft.touch()
    mode = draft.stat().st_mode
    save_file(dict(tensors), draft, metadata=metadata)
    draft.chmod(mode)
    os.replace(draft, path)
