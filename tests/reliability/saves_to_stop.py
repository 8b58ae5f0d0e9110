"""A save, stopped at a system call: a script that forks one process per stop and has strace kill it there.

usage: saves_to_stop.py FOLDER STRIDE; prints a line of JSON. Every STRIDE-th call of each kind is a stop.
       saves_to_stop.py FOLDER calls; prints the calls of a save that nobody stops, with the paths of open files.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from unmask.models.tensor_file import write_tensors
from unmask.training import safekeeping
from unmask.training.checkpointing import random_states, save_json, save_random_states

CALLS = ("openat", "write", "writev", "pwrite64", "ftruncate", "fsync", "fdatasync", "rename", "renameat", "renameat2",
         "mkdir", "unlink", "unlinkat", "rmdir")  # fmt: skip
_ANYBODY = -1
_SET_PTRACER = 0x59616D61


def fill(folder: Path) -> None:
    """About a megabyte, written as a run writes it."""
    write_tensors({"weight": torch.arange(130_000, dtype=torch.float64)}, folder / "model.safetensors")
    save_random_states([random_states()], folder)
    save_json({"global_step": 2}, folder / safekeeping.STATE)


def save(output: Path) -> None:
    """Clear up, write the third checkpoint again and let the first one go."""
    safekeeping.settle(output)
    safekeeping.write_whole(output / "checkpoint-3", fill)
    safekeeping.rotate(output, 2, None)


def begin(output: Path) -> None:
    """Two good checkpoints, one with the name of what will be saved, and the rest of an earlier stop."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    for step in (1, 2, 3):
        safekeeping.write_whole(output / f"checkpoint-{step}", fill)
    (output / ".checkpoint-3.partial").mkdir()


def waiting(work: Callable[[], None]) -> tuple[int, int]:
    """A child that works when a byte comes through the pipe; its number and the pipe."""
    reads, writes = os.pipe()
    child = os.fork()
    if child:
        os.close(reads)
        return child, writes
    ctypes.CDLL(None).prctl(_SET_PTRACER, _ANYBODY, 0, 0, 0)
    os.read(reads, 1)
    work()
    os._exit(0)


def under_strace(work: Callable[[], None], options: list[str]) -> tuple[bool, str]:
    """Work in a child under strace; whether it was killed, and what strace wrote."""
    child, pipe = waiting(work)
    tracer = subprocess.Popen(["strace", "-qq", "-f", "-p", str(child), *options], stderr=subprocess.PIPE, text=True)
    # attached as soon as the kernel says so
    while "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text():
        if tracer.poll() is not None:
            os.kill(child, signal.SIGKILL)
            raise RuntimeError(tracer.communicate()[1])
    os.write(pipe, b"x")
    os.close(pipe)
    status = os.waitpid(child, 0)[1]
    written = tracer.communicate()[1]
    if not os.WIFSIGNALED(status) and status != 0:
        raise RuntimeError(f"the save itself failed: {written[-500:]}")
    return os.WIFSIGNALED(status), written


def is_good(output: Path) -> bool:
    """Something complete is found, as it was written, and the next run saves as if nothing had been."""
    found = safekeeping.newest(output)
    kept = found.newest is not None and safekeeping.step_of(found.newest) >= 2 and not found.passed_over
    save(output)
    return kept and safekeeping.newest(output).newest == output / "checkpoint-3" and not any(output.glob(".check*"))


def main() -> None:
    output = Path(sys.argv[1]) / "run"
    if sys.argv[2] == "calls":
        begin(output)
        print(under_strace(lambda: save(output), ["-y", "-s", "0", "-e", f"trace={','.join(CALLS)}"])[1])
    else:
        print(json.dumps(stopped_everywhere(output, int(sys.argv[2]))))


def stopped_everywhere(output: Path, stride: int) -> dict[str, object]:
    """How many stops there were, of which kinds, and after how many everything was good."""
    stops, good, of_kind = 0, 0, {}
    for call in CALLS:
        number = 1
        while True:
            begin(output)
            stop = f"inject={call}:signal=SIGKILL:when={number}"
            killed, _ = under_strace(lambda: save(output), ["-e", f"trace={call}", "-e", stop])
            if not killed:
                break
            stops, good, of_kind[call] = stops + 1, good + is_good(output), of_kind.get(call, 0) + 1
            number += stride
    return {"stops": stops, "good": good, "kinds": of_kind}


if __name__ == "__main__":
    main()
