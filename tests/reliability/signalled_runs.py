"""A training run that gets a signal, then goes on: a script that forks each run.

usage: signalled_runs.py SETTINGS.json FOLDER CASES.json; CASES is a list of [signal, whole group, workers, reports
before it]. Prints a line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from runs_to_kill import digest, forked, settings_of

from unmask.training import safekeeping
from unmask.training.run import train


def reports(output: Path) -> int:
    file = output / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


def one(given: dict[str, Any], output: Path, case: list[Any]) -> dict[str, Any]:
    """Signal a run after some reports, look at what it left, and let it go on."""
    name, group, workers, after = case
    mine = {**given, "trainer": {**given["trainer"], "dataloader_num_workers": workers, "save_strategy": "no"}}

    def work() -> None:
        os.setsid()
        train(settings_of(mine, output), verb="sft")

    child = forked(work)
    while reports(output) < after:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "ended before the signal"
        time.sleep(0.002)
    (os.killpg if group else os.kill)(child, signal.Signals[name])
    began = time.monotonic()
    status = os.waitpid(child, 0)[1]
    waited = time.monotonic() - began
    kept = safekeeping.newest(output)
    stopped_early = kept.newest is not None and not (output / "checkpoint-final").exists()
    last = forked(lambda: train(settings_of(mine, output), verb="sft"))
    went_on = os.waitpid(last, 0)[1] == 0
    told = {"status": status, "waited": waited, "stopped_early": stopped_early, "went_on": went_on}
    return {**told, "digest": digest(output / "checkpoint-final") if went_on else None}


def main() -> None:
    given, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    child = forked(lambda: train(settings_of(given, folder / "alone"), verb="sft"))
    assert os.waitpid(child, 0)[1] == 0
    cases = json.loads(Path(sys.argv[3]).read_text())
    told = [one(given, folder / f"run-{number}", case) for number, case in enumerate(cases)]
    print(json.dumps({"alone": digest(folder / "alone" / "checkpoint-final"), "runs": told}))


if __name__ == "__main__":
    main()
