"""How the libraries say that there is no memory left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from unmask.errors import ResourceError


@contextmanager
def shortage_as(answer: Callable[[], ResourceError]) -> Iterator[None]:
    """A context that turns a library's error about memory, of whatever device, into an answer.

    Raises:
        ResourceError: the answer; memory did not suffice inside the context.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_shortage(error):
            raise
        raise answer() from error


def _is_shortage(error: BaseException) -> bool:
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    # PyTorch's words for it on a CPU
    return known or "can't allocate memory" in str(error) or "not enough memory" in str(error)
