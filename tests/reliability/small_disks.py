"""A training run on disks that are too small, then given room: a script, to be run as root.

usage: small_disks.py SETTINGS.json FOLDER DISKS; prints a line of JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import os

from runs_to_kill import digest, forked, settings_of, trace_of

from unmask.training import safekeeping
from unmask.training.run import train


def finishes(given: dict[str, Any], output: Path, log: Path) -> bool:
    """Run in a child whose words go to a file; whether it came to its end."""

    def work() -> None:
        with log.open("w") as said, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            from rich.console import Console

            try:
                train(settings_of(given, output), verb="sft", console=Console(file=said, width=1000))
            except BaseException as error:
                said.write(f"\n{type(error).__name__}: {error}")
                raise

    return os.waitpid(forked(work), 0)[1] == 0


def on_a_disk_of(size: int, given: dict[str, Any], folder: Path, known: dict[int, str]) -> dict[str, Any]:
    """Train until the disk stops it, make room, train on."""
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    try:
        output, log = disk / "run", folder / "log"
        ended = finishes(given, output, log)
        words = log.read_text()
        kept = safekeeping.newest(output) if output.is_dir() else safekeeping.Found(None, ())
        left = not any(output.glob(".checkpoint-*.partial"))
        sane = kept.newest is None or digest(kept.newest) == known[safekeeping.step_of(kept.newest)]
        subprocess.run(["mount", "-o", "remount,size=200M", str(disk)], check=True)
        recovered = finishes(given, output, log) and digest(output / "checkpoint-final") == known[0]
        named = ended or "MB" in words or "space" in words
        return {
            "ended": ended,
            "named": named,
            "clean": left,
            "sane": sane,
            "recovered": recovered,
            "words": words[-600:],
        }
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def main() -> None:
    given, folder, disks = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), int(sys.argv[3])
    known = trace_of(given, folder)
    one = sum(path.stat().st_size for path in (folder / "alone" / "checkpoint-1").rglob("*"))
    sizes = [int(one * (0.4 + 3.8 * number / max(disks - 1, 1))) for number in range(disks)]
    print(json.dumps([on_a_disk_of(size, given, folder, known) for size in sizes]))


if __name__ == "__main__":
    main()
