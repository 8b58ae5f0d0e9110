"""Runs `generate_file` in processes that are killed at their first call of the file system, their second, and so on.

usage: killed_at_calls.py MODEL INPUT FOLDER. Every process is followed by one that nobody kills. Prints a line of JSON:
how many calls there were, and what each of them left that it should not have.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from unmask.generation.options import GenerationOptions
from unmask.lm import DiffusionLM, load
from unmask.lm.prompt_file import PromptFile, generate_file, remember_model

OPTIONS = GenerationOptions(max_new_tokens=8, steps=4, block_size=8, temperature=1.0, seed=5)


def work(lm: DiffusionLM, input: Path, output: Path) -> None:
    generate_file(PromptFile(input, output, OPTIONS, batch_size=1), lambda: lm)
    remember_model(output, {"model": "tiny"})


def kill_at(call: int, folder: Path) -> None:
    """Have this process killed right before a call that concerns a folder."""
    left = call

    def seen(event: str, given: tuple[object, ...]) -> None:
        nonlocal left
        if left and (event == "open" or event.startswith("os.")):
            left -= any(str(folder) in str(one) for one in given)
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(seen)


def exit_of(task: Callable[[], None]) -> int:
    """The exit status of a process that does this."""
    child = os.fork()
    if child == 0:
        try:
            task()
        except BaseException as problem:
            print(problem, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def main() -> None:
    torch.set_num_threads(1)  # other threads of this process would be missing in those it forks
    lm, input, folder = load(sys.argv[1], device="cpu"), Path(sys.argv[2]), Path(sys.argv[3])
    (folder / "alone").mkdir()
    work(lm, input, folder / "alone" / "out.jsonl")
    alone, calls, problems = contents(folder / "alone"), 0, list[str]()
    while True:
        place = folder / f"call-{calls}"
        place.mkdir()

        def killed(place: Path = place, call: int = calls + 1) -> None:
            kill_at(call, place)
            work(lm, input, place / "out.jsonl")

        if exit_of(killed) == 0:
            break
        calls += 1
        if exit_of(lambda place=place: work(lm, input, place / "out.jsonl")) != 0:
            problems.append(f"call {calls}: the next process failed")
        elif contents(place) != alone:
            problems.append(f"call {calls}: {sorted(contents(place))}")
    print(json.dumps({"calls": calls, "problems": problems, "files": sorted(alone)}))


if __name__ == "__main__":
    main()
