"""Two runs never write into one folder, and no dead one keeps a living one out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unmask.errors import ResourceError
from unmask.training import lock
from unmask.training.arguments import Settings
from unmask.training.run import train

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs the locks of POSIX")
# holds the folder, has a worker that outlives it, tells the worker's number, and waits
HOLDER = """
import os, pathlib, sys, time
from unmask.training import lock
lock.hold(pathlib.Path(sys.argv[1]))
worker = os.fork()
if worker == 0:
    os.close(1)
    time.sleep(60)
    os._exit(0)
print(worker, flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    os.kill(worker, signal.SIGKILL)
    lock.let_go()


def test_a_folder_in_use_is_refused_until_its_run_is_dead(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(ResourceError, match=rf"is in use by another run \(process {holder.pid} on .*\)\. Wait until"):
        lock.hold(tmp_path)
    holder.kill()
    holder.wait()
    lock.hold(tmp_path)
    lock.hold(tmp_path)


def test_a_second_run_touches_nothing(
    settings: Callable[..., Settings], tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    for more in ({}, {"fresh": True}):
        with pytest.raises(ResourceError, match="is in use by another run"):
            train(settings(output_dir=str(tmp_path), **more), verb="sft")
    assert [path.name for path in tmp_path.iterdir()] == [lock.LOCK]


def test_a_run_lets_go_at_its_end(settings: Callable[..., Settings], tmp_path: Path) -> None:
    train(settings(max_steps=1), verb="sft")
    held = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert held.stdout is not None
    os.kill(int(held.stdout.readline()), signal.SIGKILL)
    held.kill()
    held.communicate()
