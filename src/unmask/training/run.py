"""A training run from settings to a saved model; the command line and the demo both come through here."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from transformers import PrinterCallback

from unmask.diffusion.keys import Purpose
from unmask.errors import ConfigError, DataError
from unmask.models.adapters import has_adapter, read_adapter, save_adapter
from unmask.models.checkpoints import FINISHED, fill_from_files, save_model, to_official_name
from unmask.models.shell import DiffusionModel
from unmask.training import checkpointing, folder
from unmask.training.arguments import Settings
from unmask.training.callbacks import Epochs, MetricsFile, ProgressLine
from unmask.training.card import write_card
from unmask.training.describe import DryRun as DryRun
from unmask.training.describe import describe as describe
from unmask.training.ingredients import (
    Ingredients,
    collator_of,
    gather,
    load_for_training,
    objective_of,
    shares_of,
    start_note,
)
from unmask.training.library import check_optimizer, library_arguments, tracker_callbacks
from unmask.training.loading import LoaderOptions, Noiser, VisitedStream, eval_loader, stream_loader, train_loader
from unmask.training.plan import Order, RandomLength, Shares, row_lengths
from unmask.training.trainer import DiffusionTrainer, RunParts

# evaluation noise is the same in all runs, whatever their seed, so that their curves compare
_EVALUATION_SEED = int(Purpose.EVAL)


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        folder: the finished model. metrics: the last value of each metric. history: all reports, in order.
        seconds: of training, evaluation and saving.
    """

    folder: Path
    metrics: dict[str, float]
    history: list[dict[str, float]]
    seconds: float


def train(settings: Settings, *, verb: str, console: Console | None = None) -> RunResult:
    """Train, resume where the output folder holds an unfinished run of the same recipe, save, report.

    Args:
        settings: all of them. verb: `pretrain` or `sft`.
        console: where progress goes; None: the terminal.

    Raises:
        UnmaskError: settings, data, model or machine are not fit for it; nothing was written then.
    """
    console = console or Console(quiet=not _first_process())
    output_dir = Path(settings.trainer["output_dir"])
    standing = folder.inspect(output_dir, settings, verb)
    if standing.finished:
        console.print(f"{output_dir} holds this run, finished. Use --fresh to train anew.", highlight=False)
        return RunResult(output_dir / FINISHED, *folder.reported(output_dir), seconds=0.0)
    parts = gather(settings, verb)
    for note in (*parts.splits.notes, *standing.notes, start_note(parts)):
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    return _run(settings, verb, parts, standing.resume_from, console)


def _run(settings: Settings, verb: str, parts: Ingredients, resume: Path | None, console: Console) -> RunResult:
    started = time.perf_counter()
    model = load_for_training(settings, parts)
    objective = objective_of(settings, verb, model.mask_token_id)
    shares = shares_of(settings)
    noiser = Noiser(collator_of(settings, verb, parts.tokenizer), objective)
    rows, updates, loader = _train_rows(settings, parts, shares, noiser)
    evaluated = parts.splits.test if settings.trainer.get("eval_strategy", "no") != "no" else None
    args = library_arguments(settings, updates=updates, evaluate=evaluated is not None)
    check_optimizer(args, model)
    _recompute(model, settings)
    output_dir = Path(str(args.output_dir))
    # the first thing written: every mistake in the settings has been found by now
    folder.claim(output_dir, settings, verb, fresh=settings.run.fresh, first=_first_process())
    metrics = MetricsFile(output_dir)
    trainer = DiffusionTrainer(
        model,
        args,
        RunParts(
            objective=objective,
            eval_objective=_evaluation_objective(objective),
            train_loader=loader,
            eval_loader=_eval_loader(settings, evaluated, noiser) if evaluated is not None else None,
            save_weights=lambda target, tensors: _save(model, parts, settings, target, tensors),
            load_weights=lambda target: _load(model, target),
            samples_per_epoch=rows,
        ),
        [Epochs(shares.update, rows), metrics, ProgressLine(console), *tracker_callbacks(settings)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    trainer.refuse_broken()
    weights = trainer.gathered_weights()
    if args.should_save:
        checkpointing.write_whole(output_dir / FINISHED, lambda target: _save(model, parts, settings, target, weights))
        folder.finish(output_dir, settings)
    last = {name: value for line in metrics.history for name, value in line.items() if name not in ("step", "epoch")}
    return RunResult(output_dir / FINISHED, last, metrics.history, time.perf_counter() - started)


def _loader_options(settings: Settings) -> LoaderOptions:
    get = settings.trainer.get
    return LoaderOptions(
        workers=get("dataloader_num_workers", 0),
        pin_memory=get("dataloader_pin_memory", True) and torch.cuda.is_available(),
        prefetch=get("dataloader_prefetch_factor"),
        persistent=get("dataloader_persistent_workers", False),
    )


def _train_rows(settings: Settings, parts: Ingredients, shares: Shares, noiser: Noiser) -> tuple[int | None, int, Any]:
    """Rows of an epoch (None for a stream), updates of the run, and what makes its loader."""
    seed, max_steps = settings.trainer.get("seed", 42), settings.trainer.get("max_steps", -1)
    crop, how = RandomLength(settings.data.random_length_ratio, seed), _loader_options(settings)
    rows = parts.splits.train
    if not isinstance(rows, Dataset):
        if max_steps <= 0:
            raise ConfigError(
                "a stream has no length, so max_steps must say when to stop. Set it, or streaming: false."
            )
        stream = VisitedStream(rows, shares, max_steps * shares.accumulation, crop)
        return None, max_steps, lambda: stream_loader(stream, noiser, how)
    if len(rows) == 0:
        raise DataError("the training set is empty. Check dataset_args.")
    sampling = settings.trainer.get("train_sampling_strategy", "random")
    order = Order(
        row_lengths(rows),
        seed=seed,
        update=shares.update,
        shuffle=sampling != "sequential",
        by_length=sampling == "group_by_length",
        crop=crop,
        mixture=parts.splits.mixture,
    )
    updates = max_steps if max_steps > 0 else order.updates_for(settings.trainer.get("num_train_epochs", 3.0))
    return len(rows), updates, lambda: train_loader(rows, order, shares, updates, noiser, how)


def _eval_loader(settings: Settings, rows: Any, noiser: Noiser) -> Any:
    micro = settings.trainer.get("per_device_eval_batch_size", 8)
    shares = replace(shares_of(settings), micro=micro, accumulation=1)
    fixed = replace(noiser, objective=_evaluation_objective(noiser.objective))
    return lambda: eval_loader(rows, shares, fixed, _loader_options(settings))


def _evaluation_objective(objective: Any) -> Any:
    return replace(objective, seed=_EVALUATION_SEED, time_sampling="low_discrepancy")


def _recompute(model: DiffusionModel, settings: Settings) -> None:
    if settings.trainer.get("gradient_checkpointing"):
        every = ("whole_layer", "one_in_two", "one_in_three", "one_in_four")
        model.gradient_checkpointing_enable(every=1 + every.index(settings.run.checkpointing_strategy))


def _save(
    model: DiffusionModel, parts: Ingredients, settings: Settings, target: Path, tensors: dict[str, Any] | None
) -> None:
    """Write model or adapter, tokenizer and card."""
    if has_adapter(model):
        save_adapter(model, target, tensors)
    else:
        official = tensors and {to_official_name(model.family, name): value for name, value in tensors.items()}
        save_model(model, target, tensors=official)
    parts.tokenizer.save_pretrained(target)
    write_card(target, settings)


def _load(model: DiffusionModel, target: Path) -> None:
    if has_adapter(model):
        read_adapter(model, target)
    else:
        fill_from_files(model, target)


def _first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
