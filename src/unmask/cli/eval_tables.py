"""`unmask eval tables`: answers to a file of questions, scored. Parsing, printing, and the files of a report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unmask.cli import sampling
from unmask.cli.config import Parsed, parse
from unmask.cli.eval_folder import (
    check_alone,
    check_counts,
    evaluation_folder,
    teller,
    unwritable,
    write_and_print,
)
from unmask.cli.options import OptionTable
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.evaluation.choices import ChoiceSettings
    from unmask.evaluation.tables import TableResults
    from unmask.generation.options import GenerationOptions
    from unmask.lm import DiffusionLM

DOES = (
    "Let a model answer the last question of every conversation and compare with the answer that stands there: exact "
    "match and F1 of words, and what each corpus measures itself. Tables too long for the model lose their last rows, "
    "and it is said how many."
)
EXAMPLES = """\
examples:
  unmask eval tables --model_name_or_path runs/tables --dataset_args wtq-seen.jsonl --output_dir runs/tables-eval
  unmask eval tables --model_name_or_path BASE --adapter runs/lora --dataset_args "mine.jsonl[test:200]"
  unmask eval tables --model_name_or_path BASE --dataset_args tabfact.jsonl --scoring likelihood --output_dir facts
  unmask eval tables --baseline majority --dataset_args wtq-seen.jsonl
"""
ERRORS = "errors.html"
_OF_MODELS = ("adapter", "model", "batch_size", "device", "dtype", "load_in_4bit", "load_in_8bit", "compile")
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
    """Folder for cases.jsonl, results.json, .md, .html and errors.html; an interrupted evaluation is gone on with."""
    limit: int | None = None
    """Ask the first so many questions only."""
    batch_size: int = 16
    """Questions answered together; changes no answer."""
    scoring: Literal["generation", "likelihood"] = "generation"
    """generation: the model writes its answer; likelihood: its answer is the likeliest of a few choices."""
    choices: list[str] = field(default_factory=list)
    """Of likelihood: the possible answers, as yes,no; the different right answers of the data unless given."""
    calibrate: bool = False
    """Of likelihood: take away how likely a choice is after a question that says nothing."""
    samples: int = 32
    """Of likelihood: masked copies of a choice; a choice of one token needs but one."""
    sentence_scores: bool = False
    """Count ROUGE and BLEU too; FeTaQA's answers always have them (needs the extra `eval`)."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be read, and count them."""
    error_cases: int = 20
    """Wrong answers on the page errors.html, evenly spaced among all; 0: no page."""
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
    options, folder = _options(parsed), evaluation_folder(parsed)
    from unmask.evaluation import report
    from unmask.evaluation.answer_scores import check_measures
    from unmask.evaluation.questions import load_questions

    records, notes = load_questions(parsed["dataset_args"], parsed["limit"], skip_bad_rows=parsed["skip_bad_rows"])
    if parsed["scoring"] == "generation":
        check_measures(records, sentences=parsed["sentence_scores"])
    began = time.perf_counter()
    asked = _Asked(parsed, records, options, None if folder is None else folder / report.CASES)
    answered = asked.baseline() if parsed["baseline"] else asked.model()
    for line in notes:
        print(line, file=sys.stderr)
    found = _document(asked, answered, round(time.perf_counter() - began, 1), notes)
    if folder is not None and parsed["error_cases"]:
        _write_errors(folder / ERRORS, asked, answered, found)
    write_and_print(parsed, folder, found)
    return 0


def _check(parsed: Parsed) -> None:
    if not parsed["dataset_args"]:
        raise ConfigError("--dataset_args is missing. Name a file of conversations: --dataset_args questions.jsonl")
    if parsed["baseline"] and parsed["model_name_or_path"]:
        raise ConfigError("--baseline answers instead of a model: leave --model_name_or_path out, or --baseline.")
    _check_baseline(parsed)
    if parsed["error_cases"] < 0:
        raise ConfigError(f"--error_cases is {parsed['error_cases']}; it must be at least 0.")
    check_counts(parsed, "batch_size", "samples")
    _check_scoring(parsed)
    check_alone("eval tables")


def _check_baseline(parsed: Parsed) -> None:
    """What is a model's is refused where none is asked."""
    if not parsed["baseline"]:
        return
    generation = [option.name for option in sampling.generation_options() if option.name != "seed"]
    for name in (*_OF_MODELS, *generation):
        if name in parsed:
            raise ConfigError(
                f"{parsed.label(name)} is a model's, and --baseline {parsed['baseline']} asks none. Leave one of them "
                "out."
            )


def _check_scoring(parsed: Parsed) -> None:
    """What belongs to one way of scoring is refused with the other: it would do nothing."""
    by_likelihood = parsed["scoring"] == "likelihood"
    if by_likelihood and parsed["baseline"]:
        raise ConfigError("--scoring likelihood asks a model, and --baseline none. Leave one of them out.")
    generation = [option.name for option in sampling.generation_options() if option.name != "seed"]
    misplaced = [*generation, "sentence_scores"] if by_likelihood else ["choices", "calibrate", "samples"]
    for name in misplaced:
        if name in parsed:
            raise ConfigError(
                f"{parsed.label(name)} has no effect with --scoring {parsed['scoring']}. Leave one of them out."
            )


def _options(parsed: Parsed) -> GenerationOptions:
    options = sampling.options_from(parsed)
    whole = {name: options.max_new_tokens for name in ("block_size", "steps") if name not in parsed}
    return replace(options, **whole)


@dataclass(frozen=True)
class _Answered:
    """Results, and who gave them: a model or none, and the settings."""

    results: TableResults
    settings: dict[str, Any]
    lm: DiffusionLM | None = None
    options: GenerationOptions | None = None


@dataclass(frozen=True)
class _Asked:
    """Questions, and whom to ask how."""

    parsed: Parsed
    records: Sequence[dict[str, Any]]
    options: GenerationOptions
    cases_file: Path | None

    def model(self) -> _Answered:
        settings = self._choosing() if self.parsed["scoring"] == "likelihood" else None
        lm = sampling.load_model(self.parsed)
        if self.parsed["model"] not in (None, lm.family.name):
            raise ConfigError(
                f'--model is "{self.parsed["model"]}", but the checkpoint is of the family {lm.family.name}.'
            )
        return self._written(lm) if settings is None else self._chosen(lm, settings)

    def _written(self, lm: DiffusionLM) -> _Answered:
        from unmask.evaluation.tables import evaluate_tables

        options = sampling.own_blocks(self.options, self.parsed, lm)
        results = evaluate_tables(
            lm,
            self.records,
            options=options,
            batch_size=self.parsed["batch_size"],
            sentences=self.parsed["sentence_scores"],
            cases_file=self.cases_file,
            progress=teller("questions", "answered"),
        )
        return _Answered(results, {"scoring": "generation", "decoding": asdict(options)}, lm, options)

    def _choosing(self) -> ChoiceSettings:
        """Known before a model is loaded, which takes time."""
        from unmask.evaluation.choices import ChoiceSettings, right_answers

        return ChoiceSettings(
            tuple(self.parsed["choices"]) or right_answers(self.records),
            *(self.parsed[name] for name in ("calibrate", "samples", "seed", "batch_size")),
        )

    def _chosen(self, lm: DiffusionLM, settings: ChoiceSettings) -> _Answered:
        from unmask.evaluation.choices import choose_answers

        told = teller("questions", "answered")
        results = choose_answers(lm, self.records, settings, cases_file=self.cases_file, progress=told)
        return _Answered(results, {"scoring": "likelihood", **asdict(settings)}, lm)

    def baseline(self) -> _Answered:
        from unmask.evaluation.baselines import BASELINES
        from unmask.evaluation.tables import score_predictions

        answers = BASELINES[self.parsed["baseline"]](self.records)
        sentences = self.parsed["sentence_scores"]
        results = score_predictions(self.records, answers, sentences=sentences, cases_file=self.cases_file)
        return _Answered(results, {"baseline": self.parsed["baseline"]})


def _document(asked: _Asked, answered: _Answered, seconds: float, notes: Sequence[str]) -> dict[str, Any]:
    from unmask.evaluation import report
    from unmask.evaluation.results import result

    parsed, lm = asked.parsed, answered.lm
    found = result(
        answered.results,
        asked.records,
        baselines=lm is not None,
        data=parsed["dataset_args"],
        model=None if lm is None else report.model_facts(lm, parsed["model_name_or_path"], parsed["adapter"]),
        settings=answered.settings,
        seed=parsed["seed"],
        seconds=seconds,
        notes=tuple(notes),
    )
    return report.document(found)


def _write_errors(file: Path, asked: _Asked, answered: _Answered, found: dict[str, Any]) -> None:
    from unmask.evaluation.error_page import Errors, error_page, recorded, wrong

    cases = answered.results.cases
    shown = wrong(cases, asked.parsed["error_cases"])
    recording = None
    if answered.lm is not None and answered.options is not None and shown:
        recording = recorded(answered.lm, asked.records, shown, answered.options, asked.parsed["batch_size"])
    model = found["model"] or {}
    name = " + ".join(model[part] for part in ("name", "adapter") if model.get(part))
    about = {"answered by": name or f"baseline {asked.parsed['baseline']}", "data": found["data"], "at": found["at"]}
    part = file.with_name(f"{file.name}.part")
    try:
        part.write_text(error_page(Errors(asked.records, cases, shown, about, recording)), "utf-8")
        os.replace(part, file)
    except OSError as error:
        raise unwritable(file, error) from None
