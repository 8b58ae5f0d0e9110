"""Build the base model that ships inside the package: tokenizer, first weights, then one training run per lesson.

    python recipes/base/build.py --output_dir base [--steps 200] [--threads 1]

Every lesson goes on from the one before and is resumed where it stopped; a finished lesson is not done again. With
`--steps` each lesson ends after so many steps, which shows in minutes that two builds give the same weights. The last
line is the sha256 of the weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import torch
from heads import redraw, write_first_weights
from rows import Lesson, token_rows
from start import write_configuration, write_tokenizer

from unmask.models.tokenizers import load_tokenizer
from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings
from unmask.training.run import train

BATCH = 24
SEED = 0
RARE = 600  # told less than once in so many rows


@dataclass(frozen=True)
class Run:
    """How a lesson is learned."""

    lesson: Lesson
    steps: int
    learning_rate: float
    schedule: str


# Small tables, only cells hidden, until a cell is found by its key; then all of it; then every token
# there is, so that questions can be learned.
RUNS = (
    Run(Lesson((2, 4), (1, 2), {"value": 0.75, "key": 0.25}, foreign=0.3), 1_500, 1e-3, "constant_with_warmup"),
    Run(
        Lesson((1, 8), (1, 4), {"value": 0.55, "key": 0.15, "said": 0.2, "all": 0.1}, 0.5, 0.25, 0.15),
        16_000,
        1e-3,
        "cosine",
    ),
    Run(
        Lesson((1, 6), (1, 4), {"value": 0.55, "key": 0.15, "said": 0.2, "all": 0.1}, 0.5, 0.1, 0.15, 0.3),
        2_500,
        4e-4,
        "cosine",
    ),
)


def main() -> None:
    """Build what is not there yet."""
    options = _options()
    torch.set_num_threads(options.threads)
    model = options.output_dir / "start"
    write_tokenizer(model)
    write_configuration(model)
    write_first_weights(model, SEED)
    for number, run in enumerate(RUNS, 1):
        rows = options.output_dir / f"lesson-{number}.jsonl"
        steps = min(run.steps, options.steps or run.steps)
        if not rows.exists():
            tokenizer = load_tokenizer(model)
            _write(rows, token_rows(run.lesson, tokenizer, count=steps * BATCH, seed=number))
        if run.lesson.ciphered:
            model = _with_rare_tokens_redrawn(model, options.output_dir, number)
        model = train(_settings(run, model, rows, options.output_dir / f"lesson-{number}", steps), verb="sft").folder
    print(hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="where lessons, data and model go")
    parser.add_argument("--steps", type=int, help="end each lesson after so many steps")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; sums depend on them")
    return parser.parse_args()


def _with_rare_tokens_redrawn(model: Path, folder: Path, number: int) -> Path:
    """The model that a lesson begins with in which all tokens come up."""
    target = folder / f"start-{number}"
    if not (target / "model.safetensors").exists():
        tokenizer = load_tokenizer(model)
        told: Counter[int] = Counter()
        count = 0
        for row in _earlier_rows(folder, number):
            told.update(compress(row["input_ids"], row["may_noise"]))
            count += 1
        often = {token for token, times in told.items() if times * RARE >= count} | {tokenizer.mask_token_id}
        redraw(model, target, sorted(set(range(len(tokenizer))) - often), SEED)
    return target


def _earlier_rows(folder: Path, number: int) -> Iterator[dict]:
    for earlier in range(1, number):
        with (folder / f"lesson-{earlier}.jsonl").open(encoding="utf-8") as rows:
            yield from map(json.loads, rows)


def _write(path: Path, rows: Iterable[dict]) -> None:
    draft = path.with_suffix(".part")
    with draft.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    draft.replace(path)


def _settings(run: Run, model: Path, rows: Path, folder: Path, steps: int) -> Settings:
    return Settings(
        model=ModelArguments(model_name_or_path=str(model)),
        data=DataArguments(dataset_args=str(rows), load_preprocessed_data=True, max_length=512, padding="none"),
        objective=ObjectiveArguments(time_epsilon=0.15, loss_weight="uniform", loss_normalization="sequence"),
        run=RunArguments(),
        trainer={
            "output_dir": str(folder),
            "max_steps": steps,
            "per_device_train_batch_size": BATCH,
            "train_sampling_strategy": "group_by_length",
            "learning_rate": run.learning_rate,
            "adam_beta2": 0.95,
            "weight_decay": 0.01,
            "lr_scheduler_type": run.schedule,
            "warmup_steps": min(100, steps // 10),
            "logging_steps": 100,
            "save_steps": 1000,
            "save_total_limit": 1,
            "seed": SEED,
        },
    )


if __name__ == "__main__":
    main()
