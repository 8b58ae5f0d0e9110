"""A file of prompts -> a file of results, resumable, by one process or several. Knows nothing of the command line."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unmask.data.prompt_rows import PromptRow, read_prompts
from unmask.data.result_file import (
    ResultFile,
    Share,
    check_origin,
    check_place,
    made_of,
    move_aside,
    put_remark,
    release,
    remark,
)
from unmask.errors import ConfigError, DataError, ModelError, OutOfMemoryError, ResourceError, UnmaskError
from unmask.generation.options import GenerationOptions
from unmask.lm.attention import own_blocks
from unmask.lm.continuing import room
from unmask.lm.identity import fingerprint
from unmask.lm.many import BATCH_SIZE
from unmask.lm.model import DiffusionLM
from unmask.lm.streaming import Generation
from unmask.models.adapters import base_of, is_adapter
from unmask.models.folders import resolve_folder

# say nothing about what a row becomes
_WITHOUT_EFFECT = ("trace",)
_OF_A_MODEL = (".json", ".safetensors", ".bin", ".jinja", ".model", ".txt")


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
        DataError: a row is bad; nothing was loaded. Or the model cannot use a prompt; nothing was generated.
        ModelError: as `DiffusionLM.generate`.
        ResourceError: the disk is full, or the device's memory is; what was generated is kept.
    """
    progress = Progress()
    check_place(work.output)
    rows, progress.notes = read_prompts(work.input, chat_template=work.chat_template, skip_bad_rows=work.skip_bad_rows)
    if work.fresh:
        _fresh(work, progress)
    origin = {**_origin(work), "rows": len(rows)}
    if check_origin(work.output, origin):
        return _complete(progress, rows)
    lm = load()
    if work.own_blocks:
        work = replace(work, options=own_blocks(work.options, lm.model.facts))
    rows = _fitting(lm, rows, work, progress)
    lm.check_language(work.options)  # before the output is claimed for these options
    origin["weights"] = fingerprint(lm)
    try:
        if check_origin(work.output, origin, whole=True):
            return _complete(progress, rows)  # by another process, while this one loaded the model
        with ResultFile(work.output, [row.number for row in rows], work.share) as results:
            check_origin(work.output, origin, whole=True)  # again: before this, another run might have begun here
            _generate(lm, rows, results, work, progress, tell)
            progress.is_complete = results.merge()
            progress.missing = 0 if progress.is_complete else results.missing()
    except BaseException:
        # options that the model refuses, for example: the output is free for others
        with contextlib.suppress(UnmaskError):
            release(work.output)
        raise
    tell(progress)
    return progress


def model_seen(name: str, adapter: str | None = None, **held: Any) -> dict[str, Any]:
    """What can be told of a model without loading it: where it lies, and names, sizes and times of its files.

    Args:
        name: folder or Hub id.
        adapter: folder of an adapter on top.
        **held: how it is held; must be JSON.
    """
    seen: dict[str, Any] = {"model": name, "adapter": adapter, **held}
    for key in ("model", "adapter"):
        folder = seen[key] and _folder_there(seen[key])
        if folder is not None and is_adapter(folder):
            with contextlib.suppress(ModelError):
                base = base_of(folder)
                seen["base_files"] = base and _files(_folder_there(base))
        seen[f"{key}_files"] = _files(folder)
        seen[key] = str(folder.resolve()) if folder else seen[key]
    return seen


def confirm_model(work: PromptFile, seen: Mapping[str, Any], load: Callable[[], DiffusionLM]) -> None:
    """Refuse another model for an output that is complete; one that was not seen before is loaded for this.

    Args:
        work: what is to be generated.
        seen: `model_seen` of the model.
        load: loads it.

    Raises:
        ConfigError: the output is made of something else.
        ModelError: the model cannot be loaded.
    """
    is_there = work.output.name and os.path.isfile(work.output) and os.path.isfile(work.input)
    if work.fresh or not is_there or made_of(work.output) is None or remark(work.output) == seen:
        return
    if check_origin(work.output, _origin(work)):
        check_origin(work.output, {"weights": fingerprint(load())})
        remember_model(work.output, seen)


def remember_model(output: Path, seen: Mapping[str, Any]) -> None:
    """Keep beside an output that is complete which model wrote it, so that it need not be loaded again."""
    with contextlib.suppress(ResourceError):
        put_remark(output, dict(seen))


def _folder_there(name: str) -> Path | None:
    """The folder of a model as far as it is on this machine."""
    try:
        if os.path.exists(name) or name.count("/") != 1 or name.startswith((".", "/", "~")):
            return resolve_folder(name)
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, local_files_only=True))
    except (ModelError, OSError, ValueError):
        return None


def _files(folder: Path | None) -> str | None:
    """A hash of names, sizes and times of the files in a folder that a model is made of."""
    if folder is None:
        return None
    try:
        own = [path for path in folder.iterdir() if path.suffix in _OF_A_MODEL and not path.name.endswith(".run.json")]
        found = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in own if path.is_file())
    except OSError:
        return None
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


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


def _origin(work: PromptFile) -> dict[str, Any]:
    """What decides the results, but for the model and which rows are used."""
    options = {name: value for name, value in asdict(work.options).items() if name not in _WITHOUT_EFFECT}
    content = hashlib.sha256(work.input.read_bytes()).hexdigest()[:16]
    return {**options, "input": content, "chat_template": work.chat_template}


def _fitting(lm: DiffusionLM, rows: Sequence[PromptRow], work: PromptFile, progress: Progress) -> list[PromptRow]:
    """The rows that the model can answer; where bad rows are not skipped, all of them."""
    limit, fitting, problems = lm.model.facts.shape.max_length, list[PromptRow](), list[str]()
    for row in rows:
        problem = _problem(lm, row, work.options, limit)
        if problem is None:
            fitting.append(row)
        else:
            problems.append(problem)
    if not problems:
        return fitting
    if not fitting or not work.skip_bad_rows:
        more = f" So it is with {len(problems):,} of {len(rows):,} rows." if len(problems) > 1 else ""
        left_out = " To leave such rows out: --skip_bad_rows true" if fitting else ""
        raise DataError(f"{problems[0]}{more}{left_out}")
    progress.notes.append(
        f"{work.input}: {len(problems):,} of {len(rows):,} rows cannot be used and are skipped: {problems[0]}"
    )
    return fitting


def _problem(lm: DiffusionLM, row: PromptRow, options: GenerationOptions, limit: int) -> str | None:
    """Why the model cannot be given a prompt."""
    try:
        ids = lm.encode(row.prompt)
    except (ConfigError, DataError) as problem:
        return f"{row.where}: {problem}"
    try:
        room(len(ids), options, limit, row.where)
    except ConfigError as problem:
        return str(problem)
    return None


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
