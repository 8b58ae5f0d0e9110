"""Two processes share work; the leader ends up with what one process would have."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Sequence
from typing import Any

from unmask.evaluation.sharing import Team


def member(rank: int, port: int, told: Any) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    team, done, found = Team(), [], []

    def work(items: Sequence[int]) -> dict[str, int]:
        done.extend(items)
        return {str(item): item * item for item in items}

    if team.rank == 0:
        found = [team.lead(items, work) for items in (range(7), [], [9])]
    else:
        team.follow(work)
    team.dismiss()
    told.put((rank, found, done))


def test_one_process_does_everything_itself() -> None:
    team = Team()
    assert team.lead([1, 2], lambda items: {str(item): item for item in items}) == {"1": 1, "2": 2}
    team.dismiss()


def test_two_processes_share_what_is_led() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # torch is imported already: starting Python anew would take most of the time
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    processes = [context.Process(target=member, args=(rank, port, told)) for rank in range(2)]
    for process in processes:
        process.start()
    said = sorted(told.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    found = [{str(item): item * item for item in range(7)}, {}, {"9": 81}]
    assert said == [(0, found, [0, 2, 4, 6, 9]), (1, [], [1, 3, 5])]
