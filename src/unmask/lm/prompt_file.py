"""A file of prompts -> a file of results, resumable, by one process or several. Knows nothing of the command line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unmask.data.prompt_rows import PromptRow, read_prompts
from unmask.data.result_file import ResultFile, Share, check_origin, move_aside
from unmask.errors import ConfigError, DataError, OutOfMemoryError, ResourceError
from unmask.generation.options import GenerationOptions
from unmask.lm.attention import own_blocks
from unmask.lm.continuing import room
from unmask.lm.identity import fingerprint
from unmask.lm.many import BATCH_SIZE
from unmask.lm.model import DiffusionLM
from unmask.lm.streaming import Generation

# say nothing about what a row becomes
_WITHOUT_EFFECT = ("trace",)


@dataclass(frozen=True)
class PromptFile:
    """What is to be generated, and where it goes.

    Attributes:
        input: rows as `unmask.data.prompt_rows.read_prompts` reads them.
        output: JSON lines, in the order of the input.
        options: of every row; row i has the seed `options.seed` + i.
        batch_size: rows decoded together.
        chat_template: texts are a user's messages.
        skip_bad_rows: rows that cannot be used have no result, instead of stopping everything.
        fresh: move an earlier output aside.
        share: which process this is.
        own_blocks: of a block-causal checkpoint, blocks are as long as it was made for, whatever the options say.
    """

    input: Path
    output: Path
    options: GenerationOptions
    batch_size: int = BATCH_SIZE
    chat_template: bool = False
    skip_bad_rows: bool = False
    fresh: bool = False
    share: Share = field(default_factory=Share)
    own_blocks: bool = False


@dataclass
class Progress:
    """How far a process is.

    Attributes:
        total: rows of this process. before: those that had results when it started. done: results it made.
        tokens: tokens in these. notes: what is to be said.
        is_complete: all results of all processes are in the output. missing: those that are not there yet.
    """

    total: int = 0
    before: int = 0
    done: int = 0
    tokens: int = 0
    notes: list[str] = field(default_factory=list)
    is_complete: bool = False
    missing: int = 0


def generate_file(
    work: PromptFile, load: Callable[[], DiffusionLM], tell: Callable[[Progress], None] = lambda progress: None
) -> Progress:
    """Generate for every row of a file that has no result yet.

    Args:
        work: what.
        load: loads the model; called when the input is known to be good and there is something left to do.
        tell: is told how far it is, after every row.

    Raises:
        ConfigError: the output is made of other rows, other settings or another model, or another process writes it.
        DataError: a row is bad; nothing was loaded. Or a prompt is too long for the model; nothing was generated.
        ModelError: as `DiffusionLM.generate`.
        ResourceError: the disk is full, or the device's memory is; what was generated is kept.
    """
    progress = Progress()
    rows, progress.notes = read_prompts(work.input, chat_template=work.chat_template, skip_bad_rows=work.skip_bad_rows)
    if work.fresh:
        _fresh(work, progress)
    origin = _origin(work, len(rows))
    if check_origin(work.output, origin):
        return _complete(progress, rows)
    lm = load()
    if work.own_blocks:
        work = replace(work, options=own_blocks(work.options, lm.model.facts))
    rows = _fitting(lm, rows, work, progress)
    lm.check_language(work.options)  # before the output is claimed for these options
    if check_origin(work.output, {**origin, "weights": fingerprint(lm)}, whole=True):
        return _complete(progress, rows)  # by another process, while this one loaded the model
    with ResultFile(work.output, [row.number for row in rows], work.share) as results:
        _generate(lm, rows, results, work, progress, tell)
        progress.is_complete = results.merge()
        progress.missing = 0 if progress.is_complete else results.missing()
    tell(progress)
    return progress


def _complete(progress: Progress, rows: Sequence[PromptRow]) -> Progress:
    progress.is_complete, progress.total, progress.before = True, len(rows), len(rows)
    return progress


def _fresh(work: PromptFile, progress: Progress) -> None:
    if work.share.ranks > 1:
        raise ConfigError(
            "--fresh works in one process only: the others might go on with what it moves aside. Choose another "
            f"--output, or move {work.output}* aside first."
        )
    moved = move_aside(work.output)
    if moved is not None:
        progress.notes.append(f"the earlier output is now {moved}")


def _origin(work: PromptFile, rows: int) -> dict[str, Any]:
    """What decides the results, but for the model."""
    options = {name: value for name, value in asdict(work.options).items() if name not in _WITHOUT_EFFECT}
    content = hashlib.sha256(work.input.read_bytes()).hexdigest()[:16]
    return {**options, "input": content, "rows": rows, "chat_template": work.chat_template}


def _fitting(lm: DiffusionLM, rows: Sequence[PromptRow], work: PromptFile, progress: Progress) -> list[PromptRow]:
    """The rows that the model has room for; where bad rows are not skipped, all of them."""
    limit, fitting, first, refused = lm.model.facts.shape.max_length, list[PromptRow](), "", 0
    for row in rows:
        try:
            room(len(lm.encode(row.prompt)), work.options, limit, row.where)
            fitting.append(row)
        except ConfigError as problem:
            refused += 1
            first = first or str(problem)
    if refused and not work.skip_bad_rows:
        more = f" So it is with {refused:,} of {len(rows):,} rows." if refused > 1 else ""
        raise DataError(f"{first}{more} To leave such rows out: --skip_bad_rows true")
    if refused:
        progress.notes.append(f"{work.input}: {refused:,} of {len(rows):,} rows are too long and are skipped: {first}")
    return fitting


def _generate(
    lm: DiffusionLM,
    rows: Sequence[PromptRow],
    results: ResultFile,
    work: PromptFile,
    progress: Progress,
    tell: Callable[[Progress], None],
) -> None:
    own, by_number = results.left(), {row.number: row for row in rows}
    progress.total = len(results.rows[work.share.rank :: work.share.ranks])
    progress.before = progress.total - len(own)
    tell(progress)
    for number, result in _results(lm, [by_number[number] for number in own], work):
        row = by_number[number]
        results.add(number, {**row.given, **_written(lm, row, result, work.options.seed + number)})
        progress.done += 1
        progress.tokens += result.stats.emitted
        tell(progress)


def _results(lm: DiffusionLM, rows: Sequence[PromptRow], work: PromptFile) -> Iterator[tuple[int, Generation]]:
    seeds = [work.options.seed + row.number for row in rows]
    prompts = (row.prompt for row in rows)
    try:
        for index, result in lm.generate_many(prompts, work.options, batch_size=work.batch_size, seeds=seeds):
            yield rows[index].number, result
    except OutOfMemoryError as error:
        raise ResourceError(
            f"out of memory with batch_size {work.batch_size}. What was generated is kept: run the same command with "
            "a smaller --batch_size, which changes no result."
        ) from error


def _written(lm: DiffusionLM, row: PromptRow, result: Generation, seed: int) -> dict[str, Any]:
    stats = {
        "prompt_tokens": len(lm.encode(row.prompt)),
        "emitted": result.stats.emitted,
        "forwards": asdict(result.stats.forwards),
        "positions": result.stats.positions,
        "seed": seed,
    }
    return {"text": result.text, "finish_reason": result.finish_reason, "stats": stats}
