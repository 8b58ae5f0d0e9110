"""`unmask eval likelihood`: nats, perplexity, bits per byte of texts. Parsing, printing, and the files of a report."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli import sampling
from unmask.cli.config import Parsed, parse
from unmask.cli.eval_folder import check_alone, check_counts, evaluation_folder, teller, write_and_print
from unmask.cli.options import OptionTable
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.evaluation.likelihood import Passage
    from unmask.lm import DiffusionLM

DOES = (
    "How well a model predicts texts: nats per token, perplexity and bits per byte with a standard error, by the share "
    "of tokens that is masked and by position. Of a diffusion model these are bounds, of an autoregressive one exact; "
    "both are asked about the same tokens after the same beginning."
)
EXAMPLES = """\
examples:
  unmask eval likelihood --model_name_or_path runs/base --dataset_args held-out.txt --output_dir runs/base-nll
  unmask eval likelihood --model_name_or_path example:base --text "The river is 846 km long." --json
  unmask eval likelihood --model_name_or_path runs/chat --dataset_args "chats.jsonl[test:200]" --answers
"""
VERSION = 1


@dataclass(frozen=True)
class EvalLikelihoodArguments:
    """What is scored by whom"""

    model_name_or_path: str | None = None
    """Folder or Hub id of a checkpoint or an adapter."""
    adapter: str | None = None
    """Folder of a LoRA adapter to put on top."""
    dataset_args: str | None = None
    """Texts: files, folders, Hub ids; test:N or a split of its own for testing is taken where there is one."""
    text: str | None = None
    """A text, instead of data."""
    text_field: str = "text"
    """Column of the texts."""
    answers: bool = False
    """The data are conversations: score the last answer of each, given what is before it."""
    output_dir: str | None = None
    """Folder for cases.jsonl, results.json, results.md and results.html; an interrupted evaluation is gone on with."""
    limit: int | None = None
    """Score the first so many texts only."""
    max_length: int | None = None
    """Tokens of a passage, the one that begins it included; longer texts are cut. The model's limit unless given."""
    samples: int = 32
    """Masked copies of each passage; more of them make the standard error smaller."""
    seed: int = 0
    """Of the masks."""
    batch_size: int = 32
    """Copies per forward; changes no figure beyond rounding."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be read, and conversations that are too long for the model, and count them."""
    fresh: bool = False
    """Score everything again, though output_dir has cases."""
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


def run(argv: list[str]) -> int:
    """Run `unmask eval likelihood`."""
    parsed = parse(argv, OptionTable("eval likelihood", DOES, (EvalLikelihoodArguments,)))
    if parsed is None:
        print(EXAMPLES)
        return 0
    sampling.say_notes(parsed)
    _check(parsed)
    folder = evaluation_folder(parsed)
    began = time.perf_counter()
    texts, notes = _read(parsed)
    lm = sampling.load_model(parsed)
    passages, more = _passages(parsed, lm, texts)
    found = _evaluated(parsed, lm, passages, (*notes, *more), folder, began)
    write_and_print(parsed, folder, found)
    return 0


def _check(parsed: Parsed) -> None:
    if (parsed["dataset_args"] is None) == (parsed["text"] is None):
        raise ConfigError("eval likelihood scores texts. Give --dataset_args FILE, or --text TEXT; one of them.")
    if parsed["answers"] and parsed["text"] is not None:
        raise ConfigError("--answers scores conversations. Give them by --dataset_args, in place of --text.")
    check_counts(parsed, "samples", "batch_size", "limit")
    check_alone("eval likelihood")


def _read(parsed: Parsed) -> tuple[list[Any], list[str]]:
    """Texts, or conversations, and notes."""
    if parsed["text"] is not None:
        return [parsed["text"]], []
    from unmask.evaluation.questions import load_conversations, load_texts

    data, limit, skip = parsed["dataset_args"], parsed["limit"], parsed["skip_bad_rows"]
    if not parsed["answers"]:
        return load_texts(data, parsed["text_field"], limit, skip_bad_rows=skip)
    return load_conversations(data, limit, skip_bad_rows=skip)


def _passages(parsed: Parsed, lm: DiffusionLM, texts: list[Any]) -> tuple[list[Passage], list[str]]:
    """What is scored, and notes."""
    from unmask.evaluation.likelihood import answers_of, passages_of

    if not parsed["answers"]:
        return passages_of(lm, texts, parsed["max_length"]), []
    return answers_of(lm, texts, parsed["dataset_args"], skip_bad_rows=parsed["skip_bad_rows"])


def _evaluated(
    parsed: Parsed,
    lm: DiffusionLM,
    passages: list[Passage],
    notes: tuple[str, ...],
    folder: Path | None,
    began: float,
) -> dict[str, Any]:
    from unmask.evaluation import likelihood, report

    settings = likelihood.LikelihoodSettings(parsed["samples"], parsed["seed"], parsed["batch_size"])
    cases_file = None if folder is None else folder / report.CASES
    progress = teller("passages", "scored")
    cases = likelihood.score_passages(lm, passages, settings, cases_file=cases_file, progress=progress)
    is_exact = lm.model.facts.attention == "causal"
    kind = "Exact likelihoods." if is_exact else "Bounds: the model may predict better than this, not worse."
    result = report.Result(
        task="likelihood",
        version=VERSION,
        data=parsed["dataset_args"] or "a text",
        metrics=likelihood.metrics_of(cases),
        model=report.model_facts(lm, parsed["model_name_or_path"], parsed["adapter"]),
        settings={**asdict(settings), "max_length": parsed["max_length"], "answers": parsed["answers"]},
        seed=parsed["seed"],
        seconds=round(time.perf_counter() - began, 1),
        curves=likelihood.curves_of(cases),
        notes=(kind, "Standard errors are of the masks drawn, not of the choice of texts.", *notes),
    )
    return report.document(result)
