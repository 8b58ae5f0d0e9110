"""Killed at any moment of a save, a run goes on by itself from a state that is known to be good."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("runs_to_kill.py")


@pytest.mark.timeout(2400)
def test_kills_during_saves(
    checkpoint: Path, conversations: Path, tmp_path: Path, count: Callable[[int, int], int], figure: Callable
) -> None:
    kills = count(12, 300)
    given = {"model": str(checkpoint), "data": str(conversations)}
    (tmp_path / "settings.json").write_text(json.dumps(given))
    command = [sys.executable, str(SCRIPT), str(tmp_path / "settings.json"), str(tmp_path), str(kills), "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] >= kills
    assert told["inside"] > told["kills"] / 4, "most kills missed the saves"
    assert told["resumed_right"] == told["kills"]
    assert told["runs_right"] == told["runs"]
    figure(
        f"R1  {told['resumed_right']} of {told['kills']} kills ({told['inside']} inside a save) resumed from a known "
        f"state; {told['runs_right']} of {told['runs']} runs ended with the bits of an uninterrupted one"
    )
