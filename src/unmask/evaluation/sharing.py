"""Work shared by the processes of torchrun or accelerate: the first one leads, the others do what it hands out.

Every process has the whole model. The leader alone knows tasks and writes results, so that these are as of one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

# the leader may score programs, or wait for a slow disk, for hours
_PATIENCE = timedelta(days=7)
Work = Callable[[Sequence[Any]], dict[str, Any]]


class Team:
    """The processes of a run, or the one there is.

    Attributes:
        rank, size: which process this is, of how many.
    """

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.is_own = self.size > 1 and not dist.is_initialized()
        if self.is_own:
            dist.init_process_group("gloo", timeout=_PATIENCE)
        is_led = self.size > 1 and not self.is_own
        self.group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE) if is_led else None

    def lead(self, items: Sequence[Any], work: Work) -> dict[str, Any]:
        """Share the items out, do one's own part, and bring all results together."""
        if self.size == 1:
            return work(items)
        self._tell([items[rank :: self.size] for rank in range(self.size)])
        return self._gathered(work(items[:: self.size]))

    def follow(self, work: Work) -> None:
        """Do what the leader hands out, until it dismisses."""
        while True:
            parts = self._tell(None)
            if parts is None:
                return
            self._gathered(work(parts[self.rank]))

    def dismiss(self) -> None:
        """The leader needs nobody any more; nor does a follower need the others."""
        if self.size == 1:
            return
        if self.rank == 0:
            self._tell(None)
        if self.is_own:
            dist.destroy_process_group()

    def _tell(self, parts: Any) -> Any:
        box = [parts]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def _gathered(self, own: dict[str, Any]) -> dict[str, Any]:
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, own, group=self.group)
        return {key: answer for part in parts for key, answer in part.items()}
