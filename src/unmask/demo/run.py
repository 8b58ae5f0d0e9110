"""The demo's acts in order. Nothing is stored in the package: every figure and sample is made on the spot."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from unmask.data.yardstick import unigram_nats
from unmask.demo import measures, seedling, story
from unmask.demo.options import DemoOptions
from unmask.demo.report import DemoReport, Text
from unmask.errors import ConfigError, ResourceError
from unmask.lm import DiffusionLM, TextStream, load
from unmask.models.checkpoints import load_model
from unmask.models.tokenizers import load_tokenizer
from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings
from unmask.training.run import train

Watch = Callable[[TextStream, DiffusionLM], None]
MARK, REPORT = "demo.json", "report.json"
BATCH, LENGTH = 8, 128  # rows of an update, tokens of a packed row
QUESTION_BATCH, QUESTION_LENGTH = 8, 160
PRETRAIN_STEPS = 3600
ANSWER_TOKENS = 12
NEW_TOKENS = 40
TEMPERATURE = 0.5
PROMPTS = ("A group of friends.", "Animals in a zoo. The")
BLANKS = (("Oslo lies in", "Norway", " and has 12 parks."), ("The owl counts as a kind of", "bird", "."))


@dataclass
class Clock:
    """Seconds by part."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class Stage:
    """Where the demo plays: its folder, its screen, and how the canvas is shown."""

    folder: Path
    console: Console
    watch: Watch | None
    options: DemoOptions
    size: seedling.Size


def run_demo(
    options: DemoOptions,
    *,
    console: Console | None = None,
    watch: Watch | None = None,
    size: seedling.Size | None = None,
) -> DemoReport:
    """Build data, tokenizer and model, pretrain, fine-tune, measure before and after, write a report.

    Args:
        options: see there.
        console: where the story goes; None: the terminal.
        watch: drains a stream and shows its canvas; None: drained unseen.
        size: how much of everything; None: what two cores do in minutes.

    Raises:
        ConfigError: the folder holds something else.
        ResourceError: the folder cannot be written.
    """
    _quieten()
    console = console or Console()
    stage = Stage(_claim(options), console, watch, options, size or seedling.Size())
    report = _play(stage)
    report.save()
    story.end(console, report)
    return report


def _play(stage: Stage) -> DemoReport:
    clock, folder, seed = Clock(), stage.folder, stage.options.seed
    began = time.perf_counter()
    with clock.part("data"):
        data = seedling.write_data(folder / "data", stage.size, seed)
        tokenizer = seedling.train_tokenizer(data, stage.size)
        seedling.write_base(folder / "base", tokenizer, stage.size)
    untrained = _untrained(folder / "base", seed)
    seen, unseen = (seedling.documents(tokenizer, path) for path in (data.texts, data.texts_test))
    figures: dict[str, Any] = {
        "parameters": untrained.model.num_parameters(),
        "vocab_size": len(tokenizer),
        "train_tokens": sum(len(ids) for ids in seen),
    }
    story.beginning(stage.console, folder, data, figures)
    figures |= {
        "uniform_nats": math.log(len(tokenizer)),
        "unigram_nats": unigram_nats(seen, unseen, len(tokenizer)),
        "steps": _plan(untrained, stage),
    }
    figures |= _pretrain(stage, clock, data, untrained, figures, unseen)
    figures |= _finetune(stage, clock, data, figures["steps"]["sft"])
    clock.seconds["total"] = time.perf_counter() - began
    seconds = {name: round(value, 1) for name, value in clock.seconds.items()}
    return DemoReport(folder=str(folder), seed=seed, seconds=seconds, **figures)


def _pretrain(
    stage: Stage,
    clock: Clock,
    data: seedling.DataFiles,
    untrained: DiffusionLM,
    figures: dict[str, Any],
    unseen: list[list[int]],
) -> dict[str, Any]:
    """Pretraining, with what is measured and written before and after it."""
    with clock.part("measuring"):
        bound_before, facts_before = measures.bound_nats(untrained, unseen), measures.facts_right(untrained)
        spoken_before = _speak(untrained, stage)
    story.before_training(stage.console, figures, bound_before)
    with clock.part("pretraining"):
        settings = _pretraining(stage, data, figures["steps"]["pretrain"])
        run = train(settings, verb="pretrain", console=stage.console)
        base = load(stage.folder / "pretrain", device="cpu")
    with clock.part("measuring"):
        bound_after, facts_after = measures.bound_nats(base, unseen), measures.facts_right(base)
        continued, filled = _pairs(spoken_before, _speak(base, stage))
    story.after_training(stage.console, figures, bound_after, facts_after)
    _show(base, stage)
    story.texts(stage.console, continued, filled)
    return {
        "bound_before": bound_before,
        "bound_after": bound_after,
        "facts_before": facts_before,
        "facts_after": facts_after,
        "continued": continued,
        "filled": filled,
        "tokens_per_second": run.metrics.get("tokens_per_second", 0.0),
    }


def _finetune(stage: Stage, clock: Clock, data: seedling.DataFiles, steps: int) -> dict[str, Any]:
    """Fine-tuning, with the questions answered before and after it."""
    questions, learned = (seedling.read_rows(path) for path in (data.questions_test, data.questions))
    story.before_questions(stage.console, questions[0])
    with clock.part("measuring"):
        base = load(stage.folder / "pretrain", device="cpu")
        before = measures.answers_right(base, questions, learned, ANSWER_TOKENS)
    with clock.part("fine-tuning"):
        train(_finetuning(stage, data, steps), verb="sft", console=stage.console)
    with clock.part("measuring"):
        tuned = load(stage.folder / "sft", device="cpu")
        after = measures.answers_right(tuned, questions, learned, ANSWER_TOKENS)
    return {"answers_before": before, "answers_after": after}


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


def _untrained(folder: Path, seed: int) -> DiffusionLM:
    model = load_model(folder, from_scratch=True, dtype="float32", seed=seed)
    return DiffusionLM(model.eval(), load_tokenizer(folder, model.facts))


def _plan(lm: DiffusionLM, stage: Stage) -> dict[str, int]:
    """Steps of both trainings: as asked, or as many as the minutes allow on this machine, up to a fixed number."""
    if stage.options.steps is not None:
        return {"pretrain": stage.options.steps, "sft": max(1, stage.options.steps // 2)}
    # A question's row is about as long as a packed one; the optimizer and the loader take a fifth more.
    per_step = 1.2 * measures.seconds_per_update(lm, BATCH, LENGTH)
    possible = int(stage.options.minutes * 60 / (1.5 * per_step))
    pretrain = max(1, min(PRETRAIN_STEPS, possible))
    return {"pretrain": pretrain, "sft": max(1, pretrain // 2)}


def _settings(stage: Stage, model: str, data: DataArguments, output: str, **trainer: Any) -> Settings:
    steps = trainer["max_steps"]
    common = {
        "output_dir": str(stage.folder / output),
        "per_device_train_batch_size": BATCH,
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, steps // 20),
        "weight_decay": 0.1,
        # a short run cannot wait for the second moment's usual memory of a thousand updates
        "adam_beta2": 0.95,
        "logging_steps": max(1, steps // 8),
        "save_strategy": "steps",
        "save_steps": max(1, steps // 3),
        "save_total_limit": 2,
        "seed": stage.options.seed,
        "use_cpu": True,
    }
    return Settings(
        ModelArguments(model_name_or_path=str(stage.folder / model)),
        data,
        ObjectiveArguments(),
        RunArguments(),
        common | trainer,
    )


def _pretraining(stage: Stage, data: seedling.DataFiles, steps: int) -> Settings:
    rows = DataArguments(dataset_args=str(data.texts), max_length=LENGTH)
    return _settings(stage, "base", rows, "pretrain", max_steps=steps, learning_rate=3e-3)


def _finetuning(stage: Stage, data: seedling.DataFiles, steps: int) -> Settings:
    rows = DataArguments(dataset_args=str(data.questions), max_length=QUESTION_LENGTH)
    return _settings(
        stage, "pretrain", rows, "sft", max_steps=steps, learning_rate=1e-3, per_device_train_batch_size=QUESTION_BATCH
    )


def _speak(lm: DiffusionLM, stage: Stage) -> tuple[list[str], list[str]]:
    """Continuations of the prompts, and the blanks filled."""
    options = {"max_new_tokens": NEW_TOKENS, "block_size": 8, "steps": NEW_TOKENS, "temperature": TEMPERATURE}
    continued = lm.generate(list(PROMPTS), seed=stage.options.seed, **options)
    filled = lm.infill([measures.blanked(lm, *blank) for blank in BLANKS])
    return [result.text for result in continued], [result.text for result in filled]


def _pairs(
    before: tuple[list[str], list[str]], after: tuple[list[str], list[str]]
) -> tuple[tuple[Text, ...], tuple[Text, ...]]:
    blanks = [f"{start} ____{end}" for start, _, end in BLANKS]
    continued, filled = (
        tuple(Text(*entry) for entry in zip(given, old, new, strict=True))
        for given, old, new in zip((PROMPTS, blanks), before, after, strict=True)
    )
    return continued, filled


def _show(lm: DiffusionLM, stage: Stage) -> None:
    """One generation with its canvas visible."""
    story.before_canvas(stage.console)
    stream = lm.stream(
        PROMPTS[0],
        max_new_tokens=NEW_TOKENS,
        block_size=NEW_TOKENS // 2,
        steps=NEW_TOKENS,
        temperature=TEMPERATURE,
        seed=stage.options.seed,
    )
    if stage.watch is not None:
        stage.watch(stream, lm)
    else:
        for _ in stream:
            pass


def _quieten() -> None:
    """No progress bars of other libraries between the lines of the story; nothing here needs a network."""
    from datasets import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
