"""A save that is stopped at any of its system calls, and the order in which it reaches the disk."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("saves_to_stop.py")
pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def told(folder: Path, how: str) -> str:
    command = [sys.executable, str(SCRIPT), str(folder), how]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[2])
    if "Operation not permitted" in done.stderr:
        pytest.skip("strace may not look at other processes here")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.timeout(900)
def test_killed_at_every_call(tmp_path: Path, count: Callable[[int, int], int], figure: Callable) -> None:
    result = json.loads(told(tmp_path, str(count(8, 1))))
    assert result["good"] == result["stops"] > 10
    assert {"write", "fsync", "rename", "unlinkat"} <= {re.sub("^(rename).*", r"\1", kind) for kind in result["kinds"]}
    figure(f"R3  {result['good']} of {result['stops']} stops at a system call of a save leave a good checkpoint")


def test_a_power_cut_finds_everything_behind_a_name(tmp_path: Path, figure: Callable) -> None:
    calls = told(tmp_path, "calls").splitlines()
    run = tmp_path / "run"
    names = [i for i, call in enumerate(calls) if re.search(r'rename\w*\(.*"[^"]*\.checkpoint-3\.partial"', call)]
    assert len(names) == 1, "the checkpoint gets its name by one call"
    named = names[0]

    def last(pattern: str) -> int:
        return max((i for i, call in enumerate(calls) if re.search(pattern, call)), default=-1)

    partial = re.escape(f"{run}/.checkpoint-3.partial")
    files = [path.relative_to(run / "checkpoint-3") for path in (run / "checkpoint-3").rglob("*") if path.is_file()]
    assert len(files) >= 5
    for name in files:
        # a file may have had another name while it was written; the one it has in the end is flushed after all writes
        flushed = last(rf"fsync\(\d+<{partial}/{re.escape(str(name))}>\) = 0")
        written = last(rf"write\w*\(\d+<{partial}/{re.escape(str(name))}(\.part)?>")
        assert written < flushed < named, name
    assert last(rf"rename.*{partial}/") < last(rf"fsync\(\d+<{partial}>\) = 0") < named
    parent = next(i for i, c in enumerate(calls) if i > named and re.search(rf"fsync\(\d+<{re.escape(str(run))}>\)", c))
    deleted = [i for i, c in enumerate(calls) if re.search(r"(unlink|rmdir).*\.(replaced|deleted)", c) and i > named]
    assert all(parent < i for i in deleted)
    figure(
        f"R2  {len(files)} of {len(files)} files and 2 folders of a checkpoint are on the disk before anything needs it"
    )
