"""A signal ends a run after the update at work, with a checkpoint, exit status 0, and nothing lost."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("signalled_runs.py")
# of the whole suite's machine, which is busy; a run of one's own is done in a fraction
GRACE_SECONDS = 30


@pytest.mark.timeout(900)
def test_signals(
    checkpoint: Path, conversations: Path, tmp_path: Path, count: Callable[[int, int], int], figure: Callable
) -> None:
    cases = list(itertools.product(("SIGTERM", "SIGUSR1", "SIGINT"), (False, True), (0, 2)))
    # every signal, the process and the group, with and without workers
    cases = [cases[index] for index in range(12)] if count(3, 12) == 12 else [cases[0], cases[7], cases[10]]
    # not at the first nor at the last update, and never at the same one
    given = [[*case, 2 + 3 * number % 7] for number, case in enumerate(cases)]
    trainer = {"max_steps": 40, "save_strategy": "no"}
    settings = {"model": str(checkpoint), "data": str(conversations), "trainer": trainer}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "cases.json").write_text(json.dumps(given))
    command = [sys.executable, str(SCRIPT), *(str(tmp_path / name) for name in ("settings.json", "", "cases.json"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    for case, run in zip(given, told["runs"], strict=True):
        assert run["status"] == 0 and run["stopped_early"] and run["went_on"], (case, run)
        assert run["digest"] == told["alone"], case
        assert run["waited"] < GRACE_SECONDS
    longest = max(run["waited"] for run in told["runs"])
    figure(
        f"R11 {len(cases)} of {len(cases)} combinations of signal, target and workers saved and went on with the bits "
        f"of an uninterrupted run; exit after {longest:.1f} s at most"
    )
