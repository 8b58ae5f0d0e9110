"""Training runs that are interrupted and go on, compared with runs that are not: a script that forks each run.

usage: interrupted_runs.py JOBS.json FOLDER; JOBS is a list of {"name", "verb", "settings", "stops"}. A stop is the
update after whose checkpoint the process ends at once, as if killed. Prints a line of JSON: for each job, whether all
is equal.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from runs_to_kill import digest, forked, settings_of

from unmask.training import run as run_module
from unmask.training import safekeeping
from unmask.training.arguments import Settings

MEASURED = ("tokens_per_second", "padded_tokens_per_second", "mfu", "peak_memory")


def made(job: dict[str, Any], output: Path) -> Settings:
    """The settings of a job."""
    base = settings_of(job["settings"], output)
    data, objective = job["settings"].get("data_options", {}), job["settings"].get("objective", {})
    return replace(base, data=replace(base.data, **data), objective=replace(base.objective, **objective))


def stopping_after(update: int) -> None:
    """In this process: end at once after the checkpoint of an update is written and old ones are gone."""
    rotate = safekeeping.rotate

    def rotate_and_end(output_dir: Path, *rest: Any) -> None:
        rotate(output_dir, *rest)
        if (output_dir / f"checkpoint-{update}").is_dir():
            os._exit(9)

    safekeeping.rotate = rotate_and_end


def finished(job: dict[str, Any], output: Path, stop: int | None = None) -> int:
    """Run in a child, up to a stop if there is one; its exit status."""

    def work() -> None:
        if stop is not None:
            stopping_after(stop)
        run_module.train(made(job, output), verb=job["verb"])

    return os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1])


def reported(output: Path) -> list[dict[str, float]]:
    """All reports, without what was measured of the machine."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in MEASURED and not name.startswith("time_")}
        for line in lines
    ]


def left(output: Path) -> tuple[str, str, list[dict[str, float]]]:
    """Finished model, last checkpoint with its optimizer, reports."""
    return digest(output / "checkpoint-final"), digest(safekeeping.checkpoints(output)[-1]), reported(output)


def main() -> None:
    jobs, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    alone: dict[str, Any] = {}
    equal: dict[str, bool] = {}
    for number, job in enumerate(jobs):
        recipe = json.dumps([job["verb"], job["settings"]])
        if recipe not in alone:
            assert finished(job, folder / f"alone-{number}") == 0
            alone[recipe] = left(folder / f"alone-{number}")
        output = folder / f"stopped-{number}"
        statuses = [finished(job, output, stop) for stop in (*job["stops"], None)]
        right = statuses == [9] * len(job["stops"]) + [0]
        equal[job["name"]] = right and left(output) == alone[recipe]
    print(json.dumps(equal))


if __name__ == "__main__":
    main()
