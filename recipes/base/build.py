"""Build the base model that ships inside the package: tokenizer, configuration, then one training run per lesson.

    python recipes/base/build.py --output_dir base [--steps 200] [--threads 1]

Every lesson goes on from the one before and is resumed where it stopped; a finished lesson is not done again. With
`--steps` each lesson ends after so many steps, which shows in minutes that two builds give the same weights. The last
line is the sha256 of the weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from unmask.data.examples import example_rows
from unmask.data.table_reading import readings
from unmask.data.table_topics import TOPICS
from unmask.data.tables import TableOptions
from unmask.demo.base_files import write_configuration, write_tokenizer
from unmask.models.tokenizers import load_tokenizer
from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings
from unmask.training.run import train

BATCH = 24
SEED = 0
NAMES = tuple(topic.name for topic in TOPICS)


@dataclass(frozen=True)
class Lesson:
    """A stage of the curriculum.

    Attributes:
        topics: how many of them, the first ones. rows, columns: of the tables, least and most.
        wordings: of each fact, at most. steps: updates.
        plain: share of paragraphs and facts without a table among the rows.
    """

    topics: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    wordings: int
    steps: int
    plain: float = 0.0


# Small worlds first; more words, columns and rows come when a cell is found by its key.
LESSONS = (
    Lesson(1, (3, 4), (1, 1), 1, 20_000),
    Lesson(2, (2, 4), (1, 1), 2, 8_000),
    Lesson(5, (2, 4), (1, 2), 2, 12_000),
    Lesson(len(NAMES), (2, 5), (1, 3), 2, 20_000),
    Lesson(len(NAMES), (1, 6), (1, 4), 2, 40_000, plain=0.3),
)


def main() -> None:
    """Build what is not there yet."""
    options = _options()
    torch.set_num_threads(options.threads)
    start = options.output_dir / "start"
    write_tokenizer(start)
    write_configuration(start)
    model = start
    for number, lesson in enumerate(LESSONS, 1):
        rows = options.output_dir / f"lesson-{number}.jsonl"
        steps = min(lesson.steps, options.steps or lesson.steps)
        if not rows.exists():
            _write(rows, _rows(lesson, number, steps * BATCH, start))
        model = train(_settings(model, rows, options.output_dir / f"lesson-{number}", steps), verb="sft").folder
    print(hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="where lessons, data and model go")
    parser.add_argument("--steps", type=int, help="end each lesson after so many steps")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; sums depend on them")
    return parser.parse_args()


def _rows(lesson: Lesson, number: int, count: int, start: Path) -> Iterable[dict]:
    """Token rows: a table is given, what is said of it is learned; plain rows are learned whole."""
    tokenizer = load_tokenizer(start)
    tables = TableOptions(seed=number, rows=lesson.rows, columns=lesson.columns, topics=NAMES[: lesson.topics])
    plain = round(count * lesson.plain)
    for reading in islice(readings(tables, wordings=lesson.wordings), count - plain):
        given, said = (tokenizer(text)["input_ids"] for text in (reading.given, reading.said))
        yield {"input_ids": given + said, "prompt_len": len(given)}
    for row in example_rows("text", name="easy", count=plain, seed=number, split="train"):
        yield {"input_ids": [*tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id], "prompt_len": 0}


def _write(path: Path, rows: Iterable[dict]) -> None:
    draft = path.with_suffix(".part")
    with draft.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    draft.replace(path)


def _settings(model: Path, rows: Path, folder: Path, steps: int) -> Settings:
    return Settings(
        model=ModelArguments(model_name_or_path=str(model), from_scratch=model.name == "start"),
        data=DataArguments(dataset_args=str(rows), load_preprocessed_data=True, max_length=256, padding="none"),
        objective=ObjectiveArguments(noise_schedule="polynomial", loss_weight="uniform", loss_normalization="token"),
        run=RunArguments(),
        trainer={
            "output_dir": str(folder),
            "max_steps": steps,
            "per_device_train_batch_size": BATCH,
            "learning_rate": 1e-3,
            "adam_beta2": 0.95,
            "weight_decay": 0.01,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 200,
            "logging_steps": 100,
            "save_steps": 1000,
            "save_total_limit": 1,
            "seed": SEED,
        },
    )


if __name__ == "__main__":
    main()
