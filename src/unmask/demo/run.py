"""The demo's acts in order. Nothing it tells is stored in the package: every figure and text is made on the spot."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from unmask.demo import measures, story
from unmask.demo.materials import DataFiles, Size, Statement, read_rows, statements, write_questions
from unmask.demo.options import DemoOptions
from unmask.demo.report import REPORT, DemoReport, Example, Filled
from unmask.errors import ConfigError, ResourceError
from unmask.evaluation.cases import Case
from unmask.generation.player import Played, Recording, Vocabulary
from unmask.lm import BLANK, DiffusionLM, TextStream, load
from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings
from unmask.training.run import train

Watch = Callable[[TextStream, DiffusionLM], None]
MARK, PLAN, TRACE, ADAPTER = "demo.json", "plan.json", "trace.html", "lora"
TYPICAL = 110  # tokens of the longest conversation of a step
SHOWN = 3  # right answers, and wrong ones
# A measure of time is never the same twice: steps come in portions, so that the same machine makes as many again.
PORTIONS = 10


@dataclass
class Clock:
    """Seconds by part, and since the beginning."""

    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def total(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.began


@dataclass(frozen=True)
class Stage:
    """Where the demo plays: its folder, its screen, how the canvas is shown, how much there is of everything."""

    folder: Path
    console: Console
    watch: Watch | None
    options: DemoOptions
    size: Size
    clock: Clock


@dataclass(frozen=True)
class Tasks:
    """What is asked of the model before and after."""

    files: DataFiles
    questions: Sequence[dict[str, Any]]
    statements: Sequence[Statement]


def run_demo(
    options: DemoOptions,
    *,
    console: Console | None = None,
    watch: Watch | None = None,
    size: Size | None = None,
) -> DemoReport:
    """Ask the base, fine-tune an adapter on questions, ask again, show how it answers, write a report.

    Args:
        options: see there.
        console: where the story goes; None: the terminal.
        watch: drains a stream and shows its canvas; None: drained unseen.
        size: how much of everything; None: what two cores do in minutes.

    Raises:
        ConfigError: the folder holds something else.
        ResourceError: the folder cannot be written.
        ModelError: this installation lacks the base.
    """
    _quieten()
    console, size = console or Console(), size or Size()
    base = load(size.base, device="cpu", dtype="float32")
    stage = Stage(_claim(options), console, watch, options, size, Clock())
    report = _play(stage, base)
    report.save()
    story.end(console, report)
    return report


def _play(stage: Stage, base: DiffusionLM) -> DemoReport:
    clock, options, size = stage.clock, stage.options, stage.size
    with clock.part("data"):
        files = write_questions(stage.folder / "data", size, options.seed)
        tasks = Tasks(files, read_rows(files.unseen), statements(size, options.seed))
    story.beginning(stage.console, base, size)
    before = _ask(stage, base, tasks, "before")
    story.before(stage.console, tasks.questions, before[1])
    steps = _plan(stage, base)
    story.training(stage.console, files, steps)
    with clock.part("fine-tuning"):
        run = train(_settings(stage, files, steps), verb="sft", console=stage.console)
        tuned = load(stage.folder / ADAPTER, device="cpu", dtype="float32")
    after = _ask(stage, tuned, tasks, "after")
    baselines = measures.baselines(tasks.questions)
    story.after(stage.console, measures.by_kind(before[1]), measures.by_kind(after[1]), baselines)
    examples = _examples(after[1])
    story.examples(stage.console, examples)
    with clock.part("showing"):
        recording = _show(stage, tuned, tasks.questions, after[1])
    return DemoReport(
        folder=str(stage.folder),
        seed=options.seed,
        base=size.base,
        parameters=base.model.num_parameters(),
        questions=size.questions,
        steps=steps,
        filled_before=measures.filled_rightly(tasks.statements, before[0]),
        filled_after=measures.filled_rightly(tasks.statements, after[0]),
        filled=_filled(tasks.statements, before[0], after[0]),
        before=measures.by_kind(before[1]),
        after=measures.by_kind(after[1]),
        baselines=baselines,
        examples=examples,
        recording=recording,
        tokens_per_second=run.metrics.get("tokens_per_second", 0.0),
        seconds={name: round(value, 1) for name, value in {**clock.seconds, "total": clock.total()}.items()},
    )


def _ask(stage: Stage, lm: DiffusionLM, tasks: Tasks, when: str) -> tuple[list[str], list[Case]]:
    """Statements filled in and questions answered, `before` or `after` fine-tuning."""
    with stage.clock.part(f"asking {when}"):
        filled = measures.filled(lm, tasks.statements)
        story.filled(stage.console, tasks.statements, filled, when)
        return filled, measures.answered(lm, tasks.questions, stage.folder / f"answers_{when}.jsonl")


def _filled(asked: Sequence[Statement], before: Sequence[str], after: Sequence[str]) -> Filled:
    first = asked[0]
    given = f"{first.table}{first.before} {BLANK}{first.after}"
    return Filled(given, first.value.strip(), *(texts[0][len(first.table) :].strip() for texts in (before, after)))


def _examples(cases: Sequence[Case]) -> tuple[Example, ...]:
    """Some right answers, then some wrong ones, of as many kinds as there are."""
    found: list[Example] = []
    for is_right in (True, False):
        kinds: dict[str, Case] = {}
        for case in cases:
            if bool(case.metrics["em"]) is is_right:
                kinds.setdefault(case.kind, case)
        found += [
            Example(case.kind, case.question, case.gold, case.prediction.strip(), is_right)
            for case in list(kinds.values())[:SHOWN]
        ]
    return tuple(found)


def _claim(options: DemoOptions) -> Path:
    """The demo's folder, made and marked; one where the same demo was interrupted is gone on with.

    Raises:
        ConfigError: the folder that was asked for holds something else.
        ResourceError: it cannot be written.
    """
    mark = {name: value for name, value in asdict(options).items() if name != "output_dir"}
    folder = Path(options.output_dir or "unmask-demo").expanduser()
    number = 2
    while not _is_free(folder, mark):
        if options.output_dir is not None:
            raise ConfigError(f"output_dir {folder} is not empty. Remove it, or choose another --output_dir.")
        folder, number = Path(f"unmask-demo-{number}"), number + 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).write_text(json.dumps(mark) + "\n", "utf-8")
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ResourceError(f"cannot write to {folder}: {reason}. Choose another --output_dir.") from None
    return folder


def _is_free(folder: Path, mark: dict[str, Any]) -> bool:
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    if (folder / REPORT).exists() or not (folder / MARK).is_file():
        return False
    return (folder / MARK).read_text("utf-8") == json.dumps(mark) + "\n"


def _plan(stage: Stage, lm: DiffusionLM) -> int:
    """Steps of fine-tuning: as asked, as an interrupted demo had it, or as many as the rest of the minutes allows."""
    if stage.options.steps is not None:
        return stage.options.steps
    plan = stage.folder / PLAN
    if plan.is_file():
        return json.loads(plan.read_text("utf-8"))["steps"]
    steps = _affordable(stage, lm)
    plan.write_text(json.dumps({"steps": steps}) + "\n", "utf-8")
    return steps


def _affordable(stage: Stage, lm: DiffusionLM) -> int:
    clock, most = stage.clock, stage.size.steps
    # all is asked again after training; adapter, optimizer, loader and samples take a third of an update more
    left = 60 * stage.options.minutes - clock.total() - 1.2 * clock.seconds["asking before"]
    possible = left / (1.35 * measures.seconds_per_update(lm, stage.size.batch, TYPICAL))
    portion = max(1, most // PORTIONS)
    return max(portion, min(most, int(possible) // portion * portion))


def _settings(stage: Stage, files: DataFiles, steps: int) -> Settings:
    return Settings(
        ModelArguments(
            model_name_or_path=stage.size.base,
            lora=True,
            r=32,
            lora_alpha=64,
            lora_dropout=0.0,
        ),
        DataArguments(dataset_args=str(files.questions), max_length=stage.size.length),
        # answers are so short that small times would leave most of them with nothing to be learned
        ObjectiveArguments(time_epsilon=0.5, loss_weight="uniform", loss_normalization="token"),
        RunArguments(sample_new_tokens=measures.ANSWER.max_new_tokens, sample_every=max(1, steps // 4)),
        {
            "output_dir": str(stage.folder / ADAPTER),
            "max_steps": steps,
            "per_device_train_batch_size": stage.size.batch,
            "learning_rate": 2e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": max(1, steps // 20),
            # a short run cannot wait for the second moment's usual memory of a thousand updates
            "adam_beta2": 0.95,
            "logging_steps": max(1, steps // 10),
            "save_strategy": "steps",
            "save_steps": max(1, steps // 4),
            "save_total_limit": 1,
            "seed": stage.options.seed,
            "use_cpu": True,
        },
    )


def _show(stage: Stage, lm: DiffusionLM, questions: Sequence[dict[str, Any]], cases: Sequence[Case]) -> dict[str, Any]:
    """The longest of the right answers with its canvas visible; that and others as a recording for `trace.html`."""
    right = [row for row, case in zip(questions, cases, strict=True) if case.metrics["em"]] or questions
    longest = max(right, key=lambda row: len(lm.tokenizer(row["messages"][-1]["content"])["input_ids"]))
    options = replace(measures.ANSWER, trace=True)
    story.before_canvas(stage.console, longest)
    stream = lm.stream([longest["messages"][:-1]], options)
    if stage.watch is not None:
        stage.watch(stream, lm)
    chosen = [longest, *questions[:SHOWN]]
    results = lm.generate([row["messages"][:-1] for row in chosen], options)
    played = [
        Played(
            result.trace,
            row["messages"][:-1],
            result.text,
            result.finish_reason,
            result.stats,
            row["messages"][-1]["content"],
        )
        for row, result in zip(chosen, results, strict=True)
        if result.trace is not None
    ]
    recording = Recording(played, Vocabulary.of(lm.tokenizer), {"model": f"{stage.size.base} + {ADAPTER}"})
    (stage.folder / TRACE).write_text(recording.to_html(), "utf-8")
    return recording.to_dict()


def _quieten() -> None:
    """No progress bars of other libraries between the lines of the story; nothing here needs a network."""
    from datasets import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
