"""A disk that is too small costs no checkpoint, is named, and once there is room the run goes on by itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("small_disks.py")


def can_mount(folder: Path) -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True).returncode == 0
    return mounted and subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0


@pytest.mark.timeout(900)
def test_disks_of_ten_sizes(
    checkpoint: Path, conversations: Path, tmp_path: Path, count: Callable[[int, int], int], figure: Callable
) -> None:
    if not can_mount(tmp_path):
        pytest.skip("needs the right to mount a small disk")
    disks = count(3, 10)
    given = {"model": str(checkpoint), "data": str(conversations), "trainer": {"max_steps": 6}}
    (tmp_path / "settings.json").write_text(json.dumps(given))
    command = [sys.executable, str(SCRIPT), str(tmp_path / "settings.json"), str(tmp_path), str(disks)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout.splitlines()[-1])
    assert [r for r in results if not (r["named"] and r["clean"] and r["sane"] and r["recovered"])] == []
    assert not all(r["ended"] for r in results), "no disk was too small"
    figure(f"R8  {len(results)} of {len(results)} runs on disks too small lost nothing and went on once there was room")
