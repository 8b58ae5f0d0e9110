"""Freed memory goes back to the system where a large gradient is to come, and only there."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from unmask.models import freed
from unmask.models.fused_nll import Head


@pytest.mark.parametrize(("much", "times"), [(freed._MUCH, 0), (4 * 8 * 4, 1)])
def test_memory_is_given_back_before_a_large_gradient(monkeypatch: pytest.MonkeyPatch, much: int, times: int):
    called: list[int] = []
    monkeypatch.setattr(freed, "_MUCH", much)
    monkeypatch.setattr(freed, "_trim", lambda: called.append)
    embedding = torch.nn.Embedding(8, 4)
    made = embedding(torch.arange(3))
    freed.give_back_before(embedding.weight, made)
    assert called == []
    made.sum().backward()
    assert called == [0] * times


@pytest.mark.parametrize("trained", [True, False])
def test_memory_is_given_back_before_the_heads_gradient(monkeypatch: pytest.MonkeyPatch, trained: bool):
    called: list[int] = []
    monkeypatch.setattr(freed, "_MUCH", 1)
    monkeypatch.setattr(freed, "_trim", lambda: called.append)
    head, hidden = Head(4, 8, bias=False).requires_grad_(trained), torch.randn(3, 4, requires_grad=True)
    nll = head(hidden, torch.arange(3))
    assert called == []
    nll.sum().backward()
    assert called == [0] * trained


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_process_is_smaller_afterwards():
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    pieces = [torch.ones(25_000) for _ in range(1000)]
    kept = pieces[-1]
    del pieces
    before = resident()
    freed.give_back()
    assert kept.sum() == 25_000 and before - resident() > 30_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_a_step_frees_is_there_for_the_next_one():
    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    def step() -> int:
        before = faults()
        pieces = [torch.ones(2**20) for _ in range(20)]
        gradient = torch.ones(10 * 2**20)
        assert len(pieces) == 20 and gradient[-1] == 1
        return faults() - before

    pages = 30 * 2**20 * 4 // 4096
    with freed.kept_between_steps(torch.empty(10, 2**20)):
        step()
        assert min(step() for _ in range(3)) < pages / 10


def test_the_c_librarys_settings_are_put_back_whatever_happens(monkeypatch: pytest.MonkeyPatch):
    now: dict[int, int] = {}

    class Recorded:
        def mallopt(self, name: int, value: int) -> None:
            now[name] = value

        def malloc_trim(self, _: int) -> None: ...

    monkeypatch.setattr(freed, "_libc", Recorded)
    with pytest.raises(RuntimeError), freed.kept_between_steps(torch.empty(10, 2**20)):
        during = dict(now)
        raise RuntimeError
    assert during.keys() == now.keys() and all(now[name] != during[name] for name in now)


@pytest.mark.parametrize("rows", [7, 40])
def test_smaller_and_much_larger_gradients_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int):
    class Untouched:
        def mallopt(self, *_: int) -> None:
            raise AssertionError("the C library's settings were touched")

    monkeypatch.setattr(freed, "_libc", Untouched)
    with freed.kept_between_steps(torch.empty(rows, 2**20)):
        pass
