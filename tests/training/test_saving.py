"""One process looks, all know; what it could not find is an error in all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch.distributed as dist

from unmask.errors import ModelError
from unmask.training.saving import agreed


class Group:
    """Stands in for a process group: what the first process sends reaches the others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rank, self.sent = 0, None
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_rank", lambda: self.rank)
        monkeypatch.setattr(dist, "broadcast_object_list", self.broadcast)

    def broadcast(self, objects: list[Any], src: int) -> None:
        assert src == 0
        if self.rank == 0:
            self.sent = list(objects)
        else:
            objects[:] = self.sent or []


def never() -> str:
    raise AssertionError("only the first process looks")


def test_what_one_finds_all_have(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agreed(lambda: "alone") == "alone"
    group = Group(monkeypatch)
    assert agreed(lambda: "found") == "found"
    group.rank = 1
    assert agreed(never) == "found"


def test_no_process_waits_for_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise ModelError("all are damaged")

    group = Group(monkeypatch)
    for group.rank in (0, 1):
        with pytest.raises(ModelError, match="all are damaged"):
            agreed(fail if group.rank == 0 else never)
