"""Train the models of the frontier: four tasks, a few seeds each, with the product's own `sft` and `pretrain`.

A model that is there is kept, one that was interrupted goes on. Sums and sudoku begin with random weights,
look-ups with `example:base`, stories with stories260K, an autoregressive model that is converted.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.frontier import folders

TASKS = ("sums", "sudoku", "tables", "stories")


@dataclass(frozen=True)
class Course:
    """How a task is learned.

    Attributes:
        steps: updates. rows: rows of an update. length: tokens of the longest row. learning_rate: its peak.
        questions: rows to draw; each is seen a few times at most.
    """

    steps: int
    rows: int
    length: int
    learning_rate: float
    questions: int = 0


COURSES = {
    "sums": Course(1600, 64, 49, 2e-3, 100_000),
    "sudoku": Course(2000, 96, 33, 2e-3, 100_000),
    "tables": Course(1500, 16, 160, 1e-3, 24_000),
    "stories": Course(3000, 16, 160, 3e-3),
}


def train_task(name: str, seed: int, output: Path, shared: Path, steps: int | None = None) -> Path:
    """The folder of a trained model."""
    from rich.console import Console

    from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings
    from unmask.training.run import train

    course = replace(COURSES[name], steps=steps or COURSES[name].steps)
    folder = output / f"{name}-{seed}"
    if (folder / "checkpoint-final").is_dir():
        return folder
    model, rows = _materials(name, seed, output, shared, course)
    data = DataArguments(dataset_args=str(rows), max_length=course.length)
    trainer = {
        "output_dir": str(folder),
        "max_steps": course.steps,
        "per_device_train_batch_size": course.rows,
        "learning_rate": course.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "save_steps": 1000,
        "save_total_limit": 1,
        "report_to": "none",
        "logging_steps": 50,
        "seed": seed,
    }
    settings = Settings(
        ModelArguments(model_name_or_path=model, from_scratch=name in ("sums", "sudoku")),
        data,
        ObjectiveArguments(),
        RunArguments(report=False),
        trainer,
    )
    started = time.perf_counter()
    train(settings, verb="pretrain" if name == "stories" else "sft", console=Console(quiet=True))
    print(f"{folder.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return folder


def _materials(name: str, seed: int, output: Path, shared: Path, course: Course) -> tuple[str, Path]:
    """What the model begins from, and the rows it learns from."""
    output.mkdir(parents=True, exist_ok=True)
    start, rows = output / f"start-{name}", output / f"{name}-{seed}.jsonl"
    if name == "stories":
        if not (start / "config.json").exists():
            folders.write_stories(start, shared / "data/weights_stories260k")
        return str(start), folders.write_texts(rows.with_suffix(".txt"), shared / "data")
    if name == "tables":
        return "example:base", folders.write_rows(rows, name, None, course.questions, seed)
    if not (start / "config.json").exists():
        folders.write_characters(start)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(start)
    return str(start), folders.write_rows(rows, name, tokenizer, course.questions, seed)


def train_all(options: Any) -> None:
    """All tasks of a seed before the next seed."""
    for seed in range(options.seeds):
        for name in options.tasks:
            train_task(name, seed, options.models, options.shared, options.steps)
