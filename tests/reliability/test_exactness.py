"""A run that was interrupted ends with the bits of one that was not, in all that it leaves."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("interrupted_runs.py")
UPDATES = 12
# an epoch of 40 conversations in updates of 8 ends after the 5th
STOPS = {"one": [7], "two": [1, 6], "five": [2, 4, 5, 6, 11]}


def jobs_of(model: Path, conversations: Path, texts: Path) -> list[dict[str, Any]]:
    """Every combination of where rows come from, packing, workers, accumulation, objective and interruptions."""
    found = []
    of = itertools.product((False, True), (False, True), (0, 2), (1, 3), ("masked", "block"), STOPS)
    for streams, packed, workers, accumulation, objective, stops in of:
        trainer = {
            "max_steps": UPDATES,
            "per_device_train_batch_size": {1: 8, 3: 2}[accumulation] if not packed else 2,
            "gradient_accumulation_steps": accumulation,
            "dataloader_num_workers": workers,
            "logging_steps": 3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 2,
        }
        options: dict[str, Any] = {"packing": packed, "block_size": 8, "random_length_ratio": 0.2}
        if streams:
            options["streaming"] = True
        settings = {"model": str(model), "data": str(texts if streams else conversations), "trainer": trainer,
                    "data_options": options, "objective": {"objective": objective}}  # fmt: skip
        names = ["stream" if streams else "map", "packed" if packed else "padded", f"workers{workers}",
                 f"accumulation{accumulation}", objective, stops]  # fmt: skip
        verb = "pretrain" if streams else "sft"
        found.append({"name": "-".join(names), "verb": verb, "settings": settings, "stops": STOPS[stops]})
    return found


@pytest.mark.timeout(3000)
def test_interrupted_runs(
    checkpoint: Path,
    conversations: Path,
    texts: Path,
    tmp_path: Path,
    count: Callable[[int, int], int],
    figure: Callable,
) -> None:
    jobs = jobs_of(checkpoint, conversations, texts)
    assert len(jobs) == 96
    # two that between them have both values of every dimension
    chosen = jobs if count(0, 1) else [jobs[5], jobs[90]]
    (tmp_path / "jobs.json").write_text(json.dumps(chosen))
    command = [sys.executable, str(SCRIPT), str(tmp_path / "jobs.json"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    equal = json.loads(done.stdout.splitlines()[-1])
    assert [name for name, same in equal.items() if not same] == []
    figure(
        f"R4  {len(equal)} of {len(equal)} interrupted runs left the weights, optimizer states and reports of an "
        "uninterrupted one"
    )
