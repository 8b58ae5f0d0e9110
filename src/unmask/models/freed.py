"""Freed memory that the C library keeps: given back to the system before much is taken at once, or kept on purpose.

Activations are small pieces, which glibc keeps when they are freed; the gradient of an embedding is one large piece,
for which it asks the system. Without this, a process holds both. Knows no network.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

# bytes of a gradient below which nothing is given back: activations taken anew cost a fifth of a step
_MUCH = 2**27
# glibc asks the system anew for each piece larger than this, whatever it has
_LARGE = 2**25
# of its `mallopt`: names and usual values of two settings
_TRIM_THRESHOLD, _MMAP_MAX = (-1, 2**26), (-4, 65536)


def is_much(gradient_of: Tensor) -> bool:
    """Whether freed memory goes back to the system before the gradient of this weight is made."""
    return gradient_of.numel() * gradient_of.element_size() >= _MUCH


def is_kept(gradient_of: Tensor) -> bool:
    """Whether glibc is told to keep what a training step frees, on a processor."""
    return _LARGE <= gradient_of.numel() * gradient_of.element_size() < _MUCH


def give_back_before(gradient_of: Tensor, made: Tensor) -> None:
    """When the gradient of `made` is there, and that of the weight `gradient_of`, out of which it came, is to come."""
    is_here = made.device.type == "cpu" and not isinstance(made, FakeTensor) and not torch.compiler.is_compiling()
    if is_much(gradient_of) and is_here and gradient_of.requires_grad and made.requires_grad and _trim() is not None:
        made.register_hook(give_back)


def give_back(_gradient: Tensor | None = None) -> None:
    """Give back all that is free; nothing happens without glibc."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def keep_freed() -> None:
    """Let the C library keep what is freed for what is taken next, as decoding does many times a second.

    glibc gives back to the system all above twice the largest piece freed so far, which in a small network is less than
    what one layer takes and frees. Of a piece of 32 MiB, the largest that it learns from, nothing is touched here.
    """
    if platform.libc_ver()[0] == "glibc":
        torch.empty(2**25 - 2**14, dtype=torch.uint8)


@contextmanager
def kept_between_steps(gradient_of: Tensor) -> Iterator[None]:
    """Keep all that a training step frees for the next one, where this weight's gradient is large but not much.

    Each step takes and frees the same. What the system takes back it clears before it gives it again, which is a tenth
    of a step or more.
    """
    libc = _libc()
    if libc is None or gradient_of.device.type != "cpu" or not is_kept(gradient_of):
        yield
        return
    libc.mallopt(_TRIM_THRESHOLD[0], 2**31 - 1)
    libc.mallopt(_MMAP_MAX[0], 0)
    try:
        yield
    finally:
        libc.mallopt(*_MMAP_MAX)
        libc.mallopt(*_TRIM_THRESHOLD)
        give_back()


@cache
def _libc() -> Any:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def _trim() -> Any:
    libc = _libc()
    return None if libc is None else libc.malloc_trim
