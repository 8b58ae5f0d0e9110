"""What evaluations in one process share: the folder that they write to, and lines that say how far they are."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unmask.cli.config import Parsed
from unmask.errors import ConfigError, ResourceError


def check_alone(what: str) -> None:
    """Raises ConfigError: several processes were started."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{what} runs in one process. Start it without accelerate launch or torchrun.")


def check_counts(parsed: Parsed, *names: str) -> None:
    """Raises ConfigError: one of these numbers is given and below 1."""
    for name in names:
        if parsed[name] is not None and parsed[name] < 1:
            raise ConfigError(f"--{name} is {parsed[name]}; it must be at least 1.")


def evaluation_folder(parsed: Parsed) -> Path | None:
    """The folder of --output_dir; with --fresh its cases have another name.

    Raises:
        ResourceError: it cannot be written.
    """
    if parsed["output_dir"] is None:
        return None
    from unmask.evaluation.report import CASES

    folder = Path(parsed["output_dir"]).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if parsed["fresh"]:
            _move_aside(folder / CASES)
    except OSError as error:
        raise unwritable(folder, error) from None
    return folder


def _move_aside(file: Path) -> None:
    number = next(n for n in itertools.count(1) if not file.with_name(f"{file.name}.before-{n}").exists())
    if file.exists():
        file.rename(file.with_name(f"{file.name}.before-{number}"))


def unwritable(place: Path, error: OSError) -> ResourceError:
    """What is said where a file cannot be written."""
    return ResourceError(f"cannot write {place}: {error.strerror or error}. Choose another --output_dir.")


def write_and_print(parsed: Parsed, folder: Path | None, found: dict[str, Any]) -> None:
    """A document's files, where there is a folder, and its page or, with --json, itself on the screen.

    Raises:
        ResourceError: a file cannot be written.
    """
    from unmask.evaluation import report

    if folder is not None:
        report.write(folder, found)
    print(json.dumps(found, ensure_ascii=False) if parsed["json"] else report.page(found))


def teller(what: str, done_before: str) -> Callable[[int, int], None]:
    """Says how far it is, a line for every tenth, with the time that is left.

    Args:
        what: is counted: questions.
        done_before: what became of those that an earlier start did: answered.
    """
    began, first, said = time.perf_counter(), [-1], [0]

    def tell(done: int, total: int) -> None:
        if first[0] < 0:
            first[0] = done
            if done:
                print(f"{done:,} of {total:,} {what} were {done_before} before", file=sys.stderr)
        share = 10 * done // max(total, 1)
        if share > said[0]:
            said[0] = share
            seconds = time.perf_counter() - began
            left = seconds / max(done - first[0], 1) * (total - done)
            print(f"{done:,} of {total:,} {what}, {seconds:.0f} s, {left:.0f} s left", file=sys.stderr)

    return tell
