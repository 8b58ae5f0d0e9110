"""`unmask eval tables`: a model's answers to a file of questions, scored. Parsing, printing, and three files."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unmask.cli import sampling
from unmask.cli.config import Parsed, parse
from unmask.cli.options import OptionTable
from unmask.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from unmask.evaluation.tables import TableResults
    from unmask.generation.options import GenerationOptions

DOES = (
    "Let a model answer the last question of every conversation and compare with the answer that stands there: exact "
    "match, F1 of words, and denotation accuracy for WikiTableQuestions. Tables too long for the model lose their last "
    "rows, and it is said how many."
)
EXAMPLES = """\
examples:
  unmask eval tables --model_name_or_path runs/tables --dataset_args wtq-seen.jsonl --output_dir runs/tables-eval
  unmask eval tables --model_name_or_path BASE --adapter runs/lora --dataset_args "mine.jsonl[test:200]"
  unmask eval tables --baseline majority --dataset_args wtq-seen.jsonl
"""
CASES, RESULTS, PAGE = "cases.jsonl", "results.json", "results.md"
ANSWER_TOKENS = 32


@dataclass(frozen=True)
class EvalTablesArguments:
    """Who is asked what"""

    model_name_or_path: str | None = None
    """Folder or Hub id of a checkpoint or an adapter."""
    adapter: str | None = None
    """Folder of a LoRA adapter to put on top."""
    model: str | None = None
    """Kind of the checkpoint, llada for example; checked against it where given."""
    baseline: Literal["majority", "copy"] | None = None
    """Ask no model: majority gives the most frequent right answer of each kind, copy a cell that the question names."""
    dataset_args: str | None = None
    """Conversations: files, folders, Hub ids; test:N or a split of its own for testing is taken where there is one."""
    output_dir: str | None = None
    """Folder for cases.jsonl, results.json and results.md; an interrupted evaluation there is gone on with."""
    limit: int | None = None
    """Ask the first so many questions only."""
    batch_size: int = 16
    """Questions answered together; changes no answer."""
    fresh: bool = False
    """Ask everything again, though output_dir has answers."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    dtype: str = "auto"
    """auto (as stored), float32, bfloat16 or float16."""
    load_in_4bit: bool = False
    """Hold the layers' matrices in 4 bits (NF4; needs the extra `quant`)."""
    load_in_8bit: bool = False
    """Hold the layers' matrices in 8 bits (needs the extra `quant`)."""
    compile: bool = False
    """Put the layers through torch.compile: the first forwards take longer, later ones less time."""
    json: bool = False
    """Print the results as one JSON object."""


def table() -> OptionTable:
    """The options of the verb."""
    how = (
        "How to generate; steps, and block_size but for a block-causal checkpoint, are max_new_tokens unless given",
        sampling.generation_options(),
    )
    defaults = {"max_new_tokens": ANSWER_TOKENS, "block_size": ANSWER_TOKENS, "steps": ANSWER_TOKENS}
    return OptionTable("eval tables", DOES, (EvalTablesArguments,), (how,), tuple(defaults.items()))


def run(argv: list[str]) -> int:
    """Run `unmask eval tables`."""
    parsed = parse(argv, table())
    if parsed is None:
        print(EXAMPLES)
        return 0
    sampling.say_notes(parsed)
    _check(parsed)
    options, folder = _options(parsed), _folder(parsed)
    from unmask.evaluation.questions import load_questions
    from unmask.evaluation.results import document, page

    records, notes = load_questions(parsed["dataset_args"], parsed["limit"])
    for line in notes:
        print(line, file=sys.stderr)
    began = time.perf_counter()
    results, about = (_baseline if parsed["baseline"] else _ask)(parsed, records, options, folder)
    about |= {"dataset_args": parsed["dataset_args"], "seconds": round(time.perf_counter() - began, 1)}
    found = document(results, records, about)
    text = page(found)
    if folder is not None:
        _write(folder / RESULTS, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        _write(folder / PAGE, text)
    print(json.dumps(found, ensure_ascii=False) if parsed["json"] else text)
    return 0


def _check(parsed: Parsed) -> None:
    if not parsed["dataset_args"]:
        raise ConfigError("--dataset_args is missing. Name a file of conversations: --dataset_args questions.jsonl")
    if parsed["baseline"] and parsed["model_name_or_path"]:
        raise ConfigError("--baseline answers instead of a model: leave --model_name_or_path out, or --baseline.")
    if parsed["batch_size"] < 1:
        raise ConfigError(f"--batch_size is {parsed['batch_size']}; it must be at least 1.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("eval tables runs in one process. Start it without accelerate launch or torchrun.")


def _options(parsed: Parsed) -> GenerationOptions:
    options = sampling.options_from(parsed)
    whole = {name: options.max_new_tokens for name in ("block_size", "steps") if name not in parsed}
    return replace(options, **whole)


def _folder(parsed: Parsed) -> Path | None:
    if parsed["output_dir"] is None:
        return None
    folder = Path(parsed["output_dir"]).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if parsed["fresh"]:
            (folder / CASES).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def _ask(
    parsed: Parsed, records: Sequence[dict[str, Any]], options: GenerationOptions, folder: Path | None
) -> tuple[TableResults, dict[str, Any]]:
    lm = sampling.load_model(parsed)
    if parsed["model"] not in (None, lm.family.name):
        raise ConfigError(f'--model is "{parsed["model"]}", but the checkpoint is of the family {lm.family.name}.')
    options = sampling.own_blocks(options, parsed, lm)
    from unmask.evaluation.results import about_model
    from unmask.evaluation.tables import evaluate_tables

    results = evaluate_tables(
        lm,
        records,
        options=options,
        batch_size=parsed["batch_size"],
        cases_file=None if folder is None else folder / CASES,
        progress=_teller(),
    )
    return results, about_model(lm, parsed["model_name_or_path"], parsed["adapter"], options)


def _baseline(
    parsed: Parsed, records: Sequence[dict[str, Any]], options: GenerationOptions, folder: Path | None
) -> tuple[TableResults, dict[str, Any]]:
    del options
    from unmask.evaluation.baselines import BASELINES
    from unmask.evaluation.tables import score_predictions

    answers = BASELINES[parsed["baseline"]](records)
    results = score_predictions(records, answers, cases_file=None if folder is None else folder / CASES)
    return results, {"baseline": parsed["baseline"]}


def _teller() -> Callable[[int, int], None]:
    """Says how far it is, a line for every tenth, with the time that is left."""
    began, first, said = time.perf_counter(), [-1], [0]

    def tell(done: int, total: int) -> None:
        if first[0] < 0:
            first[0] = done
            if done:
                print(f"{done:,} of {total:,} questions were answered before", file=sys.stderr)
        share = 10 * done // max(total, 1)
        if share > said[0]:
            said[0] = share
            seconds = time.perf_counter() - began
            left = seconds / max(done - first[0], 1) * (total - done)
            print(f"{done:,} of {total:,} questions, {seconds:.0f} s, {left:.0f} s left", file=sys.stderr)

    return tell


def _write(file: Path, text: str) -> None:
    part = file.with_name(f"{file.name}.part")
    try:
        part.write_text(text, "utf-8")
        os.replace(part, file)
    except OSError as error:
        raise _unwritable(file, error) from None


def _unwritable(place: Path, error: OSError) -> ResourceError:
    return ResourceError(f"cannot write {place}: {error.strerror or error}. Choose another --output_dir.")
