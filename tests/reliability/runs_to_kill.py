"""A training run in processes that end in the middle: a script, so that only one process per test imports torch.

usage: runs_to_kill.py SETTINGS.json FOLDER KILLS SEED. Forks before torch has computed anything; prints a line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unmask.training import safekeeping
from unmask.training.arguments import DataArguments, ModelArguments, RunArguments, Settings
from unmask.training.run import train


def settings_of(given: dict[str, Any], output_dir: Path) -> Settings:
    """The run that all processes work on."""
    trainer = {
        "max_steps": 12,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 2,
        "report_to": "none",
        "seed": 3,
        "disable_tqdm": True,
        **given.get("trainer", {}),
        "output_dir": str(output_dir),
    }
    return Settings(
        ModelArguments(model_name_or_path=given["model"]),
        DataArguments(dataset_args=given["data"], max_length=64),
        run=replace(RunArguments(), report=False),
        trainer=trainer,
    )


def forked(work: Callable[[], Any]) -> int:
    """Do the work in a child; it exits with 0, or with 1 and a line on stderr."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def digest(folder: Path) -> str:
    """Of the weights and the optimizer, where there is one."""
    names = [folder / "model.safetensors", folder / "optimizer.safetensors"]
    found = b"".join(path.read_bytes() for path in names if path.is_file())
    return hashlib.sha256(found).hexdigest()


@dataclass
class Tally:
    """What the kills came to."""

    kills: int = 0
    inside: int = 0
    resumed_right: int = 0
    runs: int = 0
    runs_right: int = 0


def trace_of(given: dict[str, Any], folder: Path) -> dict[int, str]:
    """The digest after every update of a run that nobody stops, and of its finished model as number 0."""
    output = folder / "alone"
    whole = {**given, "trainer": {**given.get("trainer", {}), "save_total_limit": 1000}}
    child = forked(lambda: train(settings_of(whole, output), verb="sft"))
    assert os.waitpid(child, 0)[1] == 0
    kept = safekeeping.checkpoints(output)
    return {safekeeping.step_of(path): digest(path) for path in kept} | {0: digest(output / "checkpoint-final")}


def seconds_of_a_save(given: dict[str, Any], folder: Path) -> float:
    """The median of a run's saves, seen from outside as the kills are: machines differ by a factor of ten."""
    output, lengths, began = folder / "timed", [], None
    child = forked(lambda: train(settings_of(given, output), verb="sft"))
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        is_saving = output.is_dir() and any(output.glob(".checkpoint-*"))
        if is_saving and began is None:
            began = time.monotonic()
        elif began is not None and not is_saving:
            lengths, began = [*lengths, time.monotonic() - began], None
        time.sleep(0.0003)
    return statistics.median(lengths)


def killed_in_a_save(child: int, output: Path, patience: float, chance: random.Random) -> bool:
    """Wait for the beginning of a save, then up to some seconds, and kill; False where the run came to its end."""
    waited, patience, seen = time.monotonic(), chance.random() * patience, None
    skip = chance.randrange(4)
    while time.monotonic() < waited + 120:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return False
        writing = {path.name for path in output.glob(".checkpoint-*")} if output.is_dir() else set()
        if writing and writing != seen:
            seen, skip = writing, skip - 1
        if skip < 0:
            time.sleep(patience)
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1] == signal.SIGKILL
        time.sleep(0.0003)
    raise TimeoutError("no save began")


def main() -> None:
    given, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    kills, chance = int(sys.argv[3]), random.Random(int(sys.argv[4]))
    known, tally = trace_of(given, folder), Tally()
    patience = seconds_of_a_save(given, folder)
    # with few kills chance alone may place most of them after a save: then some more runs are killed
    while tally.kills < kills or (tally.inside <= tally.kills / 4 and tally.kills < 4 * kills):
        output, before = folder / f"run-{tally.runs}", 0
        while True:
            child = forked(lambda output=output: train(settings_of(given, output), verb="sft"))
            if not killed_in_a_save(child, output, patience, chance):
                break
            tally.kills += 1
            tally.inside += any(output.glob(".checkpoint-*"))
            found = safekeeping.newest(output)
            step = 0 if found.newest is None else safekeeping.step_of(found.newest)
            right = step >= before and (step == 0 or digest(found.newest) == known[step]) and not found.passed_over
            tally.resumed_right += right
            before = step
        tally.runs += 1
        tally.runs_right += digest(output / "checkpoint-final") == known[0] and not any(output.glob(".checkpoint-*"))
    print(json.dumps(tally.__dict__))


if __name__ == "__main__":
    main()
