"""Compiled decoding where the machine gives no more memory, and no more threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.models.tiny import build
from unmask.models.native.library import Call, library, pointer
from unmask.models.native.trunk import NativeTrunk
from unmask.registry import FAMILIES

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="no compiler of C++")

# more than any machine has
TOO_MUCH = 2**52


@pytest.mark.parametrize("threads", [1, 3])
def test_too_little_memory_is_an_error_of_python(threads: int, tmp_path: Path) -> None:
    native, some = library(), torch.zeros(3, dtype=torch.int64)
    network = NativeTrunk(build(tmp_path, FAMILIES.get("llada")).trunk)._network
    with pytest.raises(MemoryError):
        native.forward(network, Call(rows=3, length=1, seen=TOO_MUCH, threads=threads, tokens=pointer(some)))
    is_pending, log_prob = torch.ones(3, dtype=torch.bool), torch.zeros(3)
    found = pointer(is_pending), 3, pointer(some), pointer(log_prob)
    with pytest.raises(MemoryError):
        native.judge(pointer(log_prob), 3, TOO_MUCH, None, 0, threads, *found)


WITHOUT_THREADS = """
import resource, sys, threading
from pathlib import Path
import torch
from tests.models.test_native import logits, native
from tests.models.tiny import tokens

torch.set_num_threads(1)
model, ids_BL = native(Path(sys.argv[1])), tokens(5, 50)
held = model.packed()
with torch.inference_mode():
    expected = model.trunk(ids_BL)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    torch.set_num_threads(4)
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**22, -1))
    try:
        threading.Thread(target=print).start()
    except RuntimeError:
        print("no threads")
    print(torch.equal(model.trunk(ids_BL), expected))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits the memory of a process by its size")
def test_without_more_threads_one_does_it_all(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WITHOUT_THREADS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert done.stdout.split("\n")[:2] == ["no threads", "True"], done.stderr
