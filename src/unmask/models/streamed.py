"""Weights that are made one by one while a checkpoint is written, and memory given back in between. Knows no file."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable

from torch import Tensor


class Streamed(dict[str, Tensor]):
    """Official name -> a tensor without values; looking one up makes it, so that `save_model` never holds them all.

    Args:
        empty: names, shapes and types of what is to be written.
        make: the tensor of a name.
    """

    def __init__(self, empty: dict[str, Tensor], make: Callable[[str], Tensor]) -> None:
        super().__init__(empty)
        self.make = make

    def __getitem__(self, name: str) -> Tensor:
        # a copy: a tensor that is still a file's would keep all of the file that was read in memory
        made = self.make(name).to(dtype=super().__getitem__(name).dtype).clone()
        _give_free_memory_back()
        return made


def forget(read: Tensor) -> None:
    """Let the system take back the memory of a tensor that was read from a file and copied; nobody may use it again.

    Whole pages of a mapped file count as this process's as long as anything of the file is in use.
    """
    if sys.platform != "linux" or read.device.type != "cpu":
        return
    page, start = mmap.PAGESIZE, read.data_ptr()
    first, end = -(-start // page) * page, (start + read.nbytes) // page * page
    if end > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED)


def _give_free_memory_back() -> None:
    """Return the heap's holes to the system, where the C library can.

    Small allocations settle in the holes that large intermediate results leave, and the next large one takes new
    memory: without this, writing a checkpoint was seen to take four times its size.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
