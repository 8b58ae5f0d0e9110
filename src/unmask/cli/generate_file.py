"""`unmask generate --input FILE --output FILE`: prompts of a file.

Parsing and telling how far it is; the work is `unmask.lm.prompt_file`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli import sampling
from unmask.cli.config import Parsed
from unmask.cli.idle_options import tell_idle
from unmask.cli.options import Option
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn

    from unmask.generation.options import GenerationOptions
    from unmask.lm import DiffusionLM
    from unmask.lm.prompt_file import Progress

OPTIONS = (
    Option(
        "input",
        str | None,
        None,
        "File of prompts, one JSON object per line (.jsonl, or .json, .csv, .parquet): prompt or text to be continued; "
        "messages, conversations, instruction or question to be answered. Other keys are carried through.",
    ),
    Option(
        "output",
        str | None,
        None,
        "File for the results of --input, in its order; the same command goes on with what a killed run has done.",
    ),
    Option("batch_size", int, 16, "With --input: rows generated together; changes no result beyond rounding."),
    Option("fresh", bool, False, "With --input: move an earlier output aside instead of going on with it."),
    Option("skip_bad_rows", bool, False, "With --input: leave rows out that cannot be used, and count them."),
)
_APART = ("prompt_file", "messages", "trace")


def run(parsed: Parsed, options: GenerationOptions) -> int:
    """Generate for the rows of `--input`. An output that is complete stays as it is, if this model wrote it.

    Raises:
        ConfigError: an option that does not go with `--input`, or the output belongs to another run.
        DataError: a row is bad.
        ResourceError: the disk or the device's memory is full.
    """
    _check(parsed)
    tell_idle(parsed, options)
    from unmask.data.result_file import Share
    from unmask.lm.prompt_file import PromptFile, confirm_model, generate_file, remember_model

    share = Share(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    work = PromptFile(
        Path(parsed["input"]).expanduser(),
        Path(parsed["output"]).expanduser(),
        options,
        batch_size=parsed["batch_size"],
        chat_template=parsed["chat_template"],
        skip_bad_rows=parsed["skip_bad_rows"],
        fresh=parsed["fresh"],
        own_blocks="block_size" not in parsed,
        share=share,
    )
    began, seen, load = time.perf_counter(), _model_seen(parsed), partial(_load, parsed)
    try:
        confirm_model(work, seen, load)
        teller = Teller(share.rank, share.ranks)
        with teller:
            done = generate_file(work, load, teller.tell)
    except KeyboardInterrupt:
        if share.rank == 0:
            _say_kept(work.output)
        raise
    remember_model(work.output, seen)
    _conclude(done, parsed, time.perf_counter() - began, share.rank)
    return 0


class Teller:
    """Says how far it is: a bar on a terminal, elsewhere a line for every tenth. Of several processes the first speaks.

    Args:
        rank, ranks: which process this is, of how many.
    """

    def __init__(self, rank: int, ranks: int) -> None:
        self.speaks, self.whose = rank == 0, f" of process 0 of {ranks}" if ranks > 1 else ""
        self._bar: Bar | None = None
        self._context: AbstractContextManager[Any] = nullcontext()
        self._task: Any = None
        self._began = 0.0
        self._said = 0
        if self.speaks and sampling.stderr().is_terminal:
            from rich.progress import Progress as Bar

            self._context = self._bar = Bar(*_columns(), console=sampling.stderr())

    def __enter__(self) -> Teller:
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)

    def tell(self, progress: Progress) -> None:
        """Show it."""
        if not self.speaks:
            return
        if not self._began:
            self._began = time.perf_counter()
            if progress.before:
                print(f"{progress.before:,} of {progress.total:,} rows{self.whose} were there before", file=sys.stderr)
        seconds = max(time.perf_counter() - self._began, 1e-9)
        speed = f"{progress.tokens / seconds:.0f} tokens/s"
        if self._bar is not None:
            self._on_bar(self._bar, progress, speed)
        else:
            self._in_lines(progress, seconds, speed)

    def _on_bar(self, bar: Bar, progress: Progress, speed: str) -> None:
        if self._task is None:
            self._task = bar.add_task(f"rows{self.whose}", total=progress.total - progress.before, speed="")
        bar.update(self._task, completed=progress.done, speed=speed)

    def _in_lines(self, progress: Progress, seconds: float, speed: str) -> None:
        left = progress.total - progress.before
        share = 10 * progress.done // max(left, 1)
        if share > self._said:
            self._said = share
            rest = seconds / max(progress.done, 1) * (left - progress.done)
            print(
                f"{progress.before + progress.done:,} of {progress.total:,} rows{self.whose}, {speed}, "
                f"{seconds:.0f} s, {rest:.0f} s left",
                file=sys.stderr,
            )


def _columns() -> tuple[str | ProgressColumn, ...]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


def _check(parsed: Parsed) -> None:
    for name, example in (("input", "prompts.jsonl"), ("output", "results.jsonl")):
        if parsed[name] is not None and not parsed[name].strip():
            raise ConfigError(f"--{name} is empty. Name a file: --{name} {example}")
    if parsed["output"] is None:
        raise ConfigError("--input needs --output, the file for the results. For example: --output results.jsonl")
    if parsed.words or parsed["prompt"] is not None:
        raise ConfigError("--input and a prompt are both given. Give one of them.")
    for name in _APART:
        if parsed[name] is not None:
            raise ConfigError(f"--input and --{name} are both given. Give one of them.")
    if parsed["show"]:
        raise ConfigError("--show shows single prompts, not the rows of --input. Leave one of them out.")
    if parsed["batch_size"] < 1:
        raise ConfigError(f"--batch_size is {parsed['batch_size']}; it must be at least 1.")
    if os.path.abspath(parsed["input"]) == os.path.abspath(parsed["output"]):
        raise ConfigError("--input and --output are one file. Choose another file for the results.")


def _load(parsed: Parsed) -> DiffusionLM:
    return sampling.load_model(sampling.with_model(parsed))


def _model_seen(parsed: Parsed) -> dict[str, Any]:
    from unmask.lm.prompt_file import model_seen

    name, adapter = parsed["model_name_or_path"], parsed["adapter"]
    if not name:
        name, adapter = adapter or sampling.SMALL_BASE, None
    held = {key: parsed[key] for key in ("dtype", "load_in_4bit", "load_in_8bit")}
    return model_seen(os.path.expanduser(name), adapter and os.path.expanduser(adapter), **held)


def _say_kept(output: Path) -> None:
    """What an interruption has left."""
    from unmask.data.result_file import kept

    rows = kept(output)
    if rows and not output.exists():
        said = "1 row is" if rows == 1 else f"{rows:,} rows are"
        _say(f"interrupted: {said} kept beside {output}; the same command goes on with the others.")


def _conclude(done: Progress, parsed: Parsed, seconds: float, rank: int) -> None:
    """What came of it; of several processes the one that put the results together and the first one speak."""
    if rank == 0:
        for line in done.notes:
            _say(line)
    figures = {
        "output": parsed["output"],
        "complete": done.is_complete,
        "rows": done.total,
        "generated": done.done,
        "missing": done.missing,
        "tokens": done.tokens,
        "seconds": round(seconds, 3),
    }
    if parsed["json"]:
        if rank == 0:
            print(json.dumps(figures, ensure_ascii=False))
    elif done.is_complete and not done.done and done.before == done.total:
        _say(f"{parsed['output']} is complete: nothing was left to do. --fresh generates anew.")
    elif done.is_complete:
        _say(
            f"{parsed['output']} is complete: {done.done:,} rows generated now, {done.tokens:,} tokens, {seconds:.1f} s"
        )
    elif rank == 0:
        _say(
            f"{done.done:,} rows are done; {done.missing:,} of other processes are not yet. {parsed['output']} is "
            "written when all are there; should a process have failed, run the same command again."
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr)
