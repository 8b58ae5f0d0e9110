"""Runs `generate_file` in processes that are killed at random moments, until one gets to its end; a script.

usage: kills.py MODEL INPUT OUTPUT KILLS SEED. Forks before torch has computed anything: starting again is cheap.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from unmask.generation.options import GenerationOptions
from unmask.lm import load
from unmask.lm.prompt_file import PromptFile, generate_file

OPTIONS = GenerationOptions(max_new_tokens=8, steps=4, block_size=8, temperature=1.0, seed=5)


def work(model: str, input: Path, output: Path) -> None:
    generate_file(PromptFile(input, output, OPTIONS, batch_size=4), lambda: load(model, device="cpu"))


def started(model: str, input: Path, output: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            work(model, input, output)
        except BaseException as problem:
            print(problem, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int, part: Path, size: int, patience: float) -> bool:
    """Wait until the part has more than `size` bytes, and then some; whether the process ended by then."""
    reached = None
    while reached is None or time.monotonic() < reached + patience:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return True
        if reached is None and part.exists() and part.stat().st_size >= size:
            reached = time.monotonic()
        time.sleep(0.0005)
    return False


def main() -> None:
    model, input, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    kills, chance = int(sys.argv[4]), random.Random(int(sys.argv[5]))
    part, rows = output.with_name(f"{output.name}.part-0-of-1"), len(input.read_text().splitlines())
    killed = inside = 0
    while killed < kills:
        child = started(model, input, output)
        size = part.stat().st_size if part.exists() else 0
        more = chance.choice((0, 1, 300 * rows // (2 * kills))) * chance.random()
        if ended(child, part, int(size + more), chance.random() * 0.03):
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1
        inside += part.exists() and part.read_bytes()[-1:] not in (b"", b"\n")
    child = started(model, input, output)
    print(f"{killed} kills, {inside} within a line, last exit {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")


if __name__ == "__main__":
    main()
