"""Saves that may fail: the run goes on without one, says so, and stops only when several in a row have failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from unmask.errors import ResourceError, UnmaskError

# in a row; what a fuller disk would not hold, a later save will not either
_ALLOWED = 3
T = TypeVar("T")


@dataclass
class Saver:
    """Counts the saves that failed in a row.

    Attributes:
        tell: says a line to the user. device: of this process, for telling the others.
    """

    tell: Callable[[str], None]
    device: torch.device
    failures: int = 0

    def attempt(self, save: Callable[[], None] | None, name: str) -> None:
        """Call `save`, which only the first process has, and let all processes know how it went.

        Raises:
            ResourceError: it failed, as those before it; what was saved earlier is kept.
        """
        reason = None if save is None else _reason(save)
        if not self._failed_anywhere(reason is not None):
            self.failures = 0
            return
        self.failures += 1
        if reason is not None and self.failures <= _ALLOWED:
            self.tell(f"warning: {name} was not saved: {reason}. Training goes on; the next save tries again.")
        if self.failures > _ALLOWED:
            raise ResourceError(
                f"{name} was not saved ({reason or 'the first process says why'}), as the {_ALLOWED} before it. Make "
                "room and run the same command again: it goes on from the last checkpoint that was saved."
            )

    def _failed_anywhere(self, failed: bool) -> bool:
        if not dist.is_initialized():
            return failed
        flag = torch.tensor(float(failed), device=self.device)
        dist.all_reduce(flag)
        return bool(flag)


def insist(save: Callable[[], None], name: str) -> None:
    """Save what there is no second chance for.

    Raises:
        ResourceError: it failed.
    """
    reason = _reason(save)
    if reason is not None:
        raise ResourceError(
            f"{name} was not saved: {reason}. Make room and run the same command again: it goes on from the last "
            "checkpoint that was saved."
        )


def _reason(save: Callable[[], None]) -> str | None:
    """Why a save failed; None: it did not."""
    try:
        save()
    except OSError as error:
        return error.strerror or str(error)
    except (SafetensorError, ResourceError) as error:
        return str(error)
    return None


def gathered(own: Any) -> list[Any]:
    """What each process holds, by rank."""
    if not dist.is_initialized():
        return [own]
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, own)
    return every


def agreed(look: Callable[[], T]) -> T:
    """What the first process finds, in all of them; only that one looks.

    Raises:
        UnmaskError: it found that there is nothing to find; so say all of them.
    """
    if not dist.is_initialized():
        return look()
    told: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            told[0] = look()
        except UnmaskError as error:
            told[1] = error
    dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    return told[0]


def size_of(state: Any) -> int:
    """Bytes of all tensors in nested mappings."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    return sum(map(size_of, state.values())) if isinstance(state, Mapping) else 0
