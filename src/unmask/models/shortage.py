"""How the libraries say that there is no memory left."""

from __future__ import annotations

import torch


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, of whatever device."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    # PyTorch's words for it on a CPU
    return known or "can't allocate memory" in str(error) or "not enough memory" in str(error)
