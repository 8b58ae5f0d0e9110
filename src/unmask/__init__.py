"""Masked diffusion language models: load, pretrain, fine-tune, generate, fill in, evaluate.

Importing this package loads neither torch nor transformers; the public names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.errors import UnmaskError as UnmaskError
    from unmask.lm import DiffusionLM as DiffusionLM
    from unmask.lm import load as load

__version__ = "0.1.0"

_HOMES = {
    "DiffusionLM": "unmask.lm",
    "UnmaskError": "unmask.errors",
    "load": "unmask.lm",
}
__all__ = ["DiffusionLM", "UnmaskError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unmask' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
