"""A training run from settings to a saved model; the command line and the demo both come through here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PrinterCallback

from unmask.errors import UnmaskError
from unmask.lm import DiffusionLM
from unmask.models.adapters import has_adapter, read_adapter, save_adapter, stored_adapter
from unmask.models.checkpoints import fill_from_files, load_model, official_tensors, save_model
from unmask.models.folders import FINISHED
from unmask.models.freed import kept_between_steps
from unmask.models.linear import keep_few_shapes
from unmask.models.shell import DiffusionModel
from unmask.training import folder, lock, replay, safekeeping
from unmask.training.arguments import Settings
from unmask.training.callbacks import Epochs, MetricsFile, ProgressLine, Tolerant
from unmask.training.card import Reached, write_run_card
from unmask.training.describe import DryRun as DryRun
from unmask.training.describe import describe as describe
from unmask.training.easing import easing_callbacks
from unmask.training.engine import asked_for
from unmask.training.fed import evaluated_on, evaluation_objective, fed_to
from unmask.training.folder import Standing
from unmask.training.ingredients import (
    Ingredients,
    collator_of,
    decided,
    gather,
    load_for_training,
    objective_of,
    shares_of,
    start_note,
)
from unmask.training.library import check_optimizer, compile_for_training, library_arguments
from unmask.training.loading import Noiser
from unmask.training.memory_question import estimate_of
from unmask.training.peak import peak_of_run
from unmask.training.report import REPORT, Report, ReportOptions
from unmask.training.report_facts import Facts, Material, facts_of, shown_memory
from unmask.training.report_samples import sampler_for
from unmask.training.saving import agreed, insist
from unmask.training.shortage import explained
from unmask.training.spikes import Spikes
from unmask.training.trackers import tracker_callbacks
from unmask.training.trainer import DiffusionTrainer, RunParts
from unmask.training.watch import Watch


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        folder: the finished model. metrics: the last value of each metric. history: all reports, in order.
        seconds: of training, evaluation and saving.
        stopped: which signal ended the run early, and when; `folder` is then the checkpoint that it goes on from.
    """

    folder: Path
    metrics: dict[str, float]
    history: list[dict[str, float]]
    seconds: float
    stopped: str | None = None


def train(settings: Settings, *, verb: str, console: Console | None = None) -> RunResult:
    """Train, resume where the output folder holds an unfinished run of the same recipe, save, report.

    Args:
        settings: all of them. verb: `pretrain` or `sft`.
        console: where progress goes; None: the terminal.

    Raises:
        UnmaskError: settings, data, model or machine are not fit for it; nothing was written then.
    """
    console = console or Console(quiet=not _first_process())
    keep_few_shapes()
    asked_for(settings)
    settings, said = decided(settings)
    output_dir = Path(settings.trainer["output_dir"])
    standing = folder.inspect(output_dir, settings, verb)
    if standing.finished:
        console.print(f"{output_dir} holds this run, finished. Use --fresh to train anew.", highlight=False)
        return RunResult(output_dir / FINISHED, *folder.reported(output_dir), seconds=0.0)
    parts = gather(settings, verb)
    # a run that goes on says later which checkpoint it takes its weights from
    about = folder.check_material(output_dir, settings, parts) if standing.goes_on else (start_note(parts),)
    for note in (*said, *parts.splits.notes, *standing.notes, *about):
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    try:
        return _run(settings, verb, parts, standing, console)
    finally:
        lock.let_go()


def _run(settings: Settings, verb: str, parts: Ingredients, standing: Standing, console: Console) -> RunResult:
    started = time.perf_counter()
    model = load_for_training(settings, parts)
    objective = objective_of(settings, verb, model.mask_token_id, shifted=parts.facts.family.shift)
    shares = shares_of(settings)
    noiser = Noiser(collator_of(settings, verb, parts.tokenizer), objective)
    fed = fed_to(settings, verb, parts, noiser)
    if fed.filling is not None:
        console.print(str(fed.filling), highlight=False, markup=False, soft_wrap=True)
    evaluated = parts.splits.test if settings.trainer.get("eval_strategy", "no") != "no" else None
    args = library_arguments(settings, updates=fed.updates, evaluate=evaluated is not None)
    check_optimizer(args, model)
    _recompute(model, settings)
    compile_for_training(settings, args, model)
    output_dir = Path(str(args.output_dir))
    resume = _resumed(output_dir, settings, console) if standing.goes_on else None
    metrics = MetricsFile(output_dir, console)
    peak = peak_of_run(args, model, settings.run.peak_tflops)
    material = Material(
        settings,
        verb,
        shares,
        parts,
        model=model,
        updates=fed.updates,
        normalization=objective.normalization,
        peak=peak.source,
        filling=fed.filling,
    )
    facts = facts_of(material)
    report = _report(material, facts, metrics, console) if settings.run.report else None
    shown: list[Any] = [report] if report else []
    shown += [*tracker_callbacks(settings, console), *easing_callbacks(settings, model, shares.rank)]

    def save(target: Path, tensors: dict[str, Any] | None) -> None:
        _save(model, parts, target, tensors)
        write_run_card(target, material, facts, Reached(trainer.state.global_step, metrics.history))

    tell = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    watched = (Watch(settings.run.hang_timeout), Spikes(shares.update, tell))

    def leave_replay(update: int) -> str:
        weights = trainer.gathered_weights()
        if not args.should_save:
            return ""
        return replay.leave(output_dir, settings, verb, update, shares.ranks, lambda target: save(target, weights))

    trainer = DiffusionTrainer(
        model,
        args,
        RunParts(
            objective=objective,
            eval_objective=evaluation_objective(objective),
            train_loader=fed.loader,
            eval_loader=partial(evaluated_on, settings, verb, evaluated, noiser) if evaluated is not None else None,
            save_weights=save,
            load_weights=lambda target: _load(model, target),
            read_weights=lambda target: _stored(model, target),
            leave_replay=leave_replay,
            tell=tell,
            peak=peak,
            asked=asked_for(settings),
        ),
        [*watched, Epochs(fed.epochs_done), metrics, ProgressLine(console), *shown],
    )
    trainer.remove_callback(PrinterCallback)
    # the first thing written: every mistake in the settings, and every other engine, has been found by now
    agreed(lambda: folder.claim(output_dir, settings, verb, parts))
    kept = kept_between_steps(model.get_input_embeddings().weight)
    with kept, _telling(report, trainer), trainer.signals, explained(settings, verb, parts.facts, args.device):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    last = {name: value for line in metrics.history for name, value in line.items() if name not in ("step", "epoch")}
    if trainer.stopped_by is not None:
        stopped = f"{trainer.stopped_by.name} after update {trainer.state.global_step:,}"
        newest = output_dir / f"checkpoint-{trainer.state.global_step}"
        return RunResult(newest, last, metrics.history, time.perf_counter() - started, stopped)
    _finish(trainer, output_dir, settings)
    return RunResult(output_dir / FINISHED, last, metrics.history, time.perf_counter() - started)


def _finish(trainer: DiffusionTrainer, output_dir: Path, settings: Settings) -> None:
    """Write the finished model, and that the run has ended."""
    weights = trainer.gathered_weights()
    if trainer.args.should_save:
        save = trainer.parts.save_weights
        insist(lambda: safekeeping.write_whole(output_dir / FINISHED, lambda target: save(target, weights)), FINISHED)
        insist(lambda: folder.finish(output_dir, settings), folder.RECIPE)


def _resumed(output_dir: Path, settings: Settings, console: Console) -> Path:
    """Where the run goes on; the first process alone reads through the checkpoints."""
    checkpoint, said = agreed(lambda: folder.checkpoint_to_go_on_from(output_dir, settings))
    for note in said:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    return checkpoint


def _report(material: Material, facts: Facts, metrics: MetricsFile, console: Console) -> Report:
    """The page of the run, and what writes its samples."""
    settings, splits = material.settings, material.parts.splits
    file = Path(settings.trainer["output_dir"]) / REPORT
    lm = DiffusionLM(material.model, material.parts.tokenizer)
    rows = splits.train if splits.test is None else splits.test
    sampler, note = sampler_for(settings, material.verb, lm, rows, unseen=splits.test is not None)
    console.print(f"report: {file}", highlight=False, markup=False, soft_wrap=True)
    memory: dict[str, Any] = {}
    with Tolerant("the report has no estimate of memory", console):
        memory = shown_memory(estimate_of(settings, material.verb, material.parts.facts))
    told = replace(facts, samples_note=note, memory=memory)
    return Report(ReportOptions(file, console, settings.run.sample_every), told, metrics, sampler)


@contextmanager
def _telling(report: Report | None, trainer: DiffusionTrainer) -> Iterator[None]:
    """Let the report know what the trainer alone knows: where its clock stands, and why it stopped."""
    if report is not None:
        report.paused = trainer.meter.clock.pause
    try:
        yield
        if report is not None and trainer.stopped_by is not None:
            report.stopped(trainer.stopped_by.name)
    except BaseException as error:
        if report is not None:
            report.stopped(_reason(error))
        raise


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    first = str(error).strip().splitlines()[:1]
    return " ".join(first) if isinstance(error, UnmaskError) else ": ".join([type(error).__name__, *first])


def _recompute(model: DiffusionModel, settings: Settings) -> None:
    if settings.trainer.get("gradient_checkpointing"):
        model.gradient_checkpointing_enable(strategy=settings.run.checkpointing_strategy)


def _save(model: DiffusionModel, parts: Ingredients, target: Path, tensors: dict[str, Any] | None) -> None:
    """Write model or adapter, and tokenizer."""
    if has_adapter(model):
        save_adapter(model, target, tensors)
    else:
        save_model(model, target, tensors=tensors and official_tensors(model, tensors))
    parts.tokenizer.save_pretrained(target)


def _load(model: DiffusionModel, target: Path) -> None:
    if has_adapter(model):
        read_adapter(model, target)
    else:
        fill_from_files(model, target)


def _stored(model: DiffusionModel, target: Path) -> dict[str, Any]:
    """What `_save` wrote, by our names."""
    return stored_adapter(model, target) if has_adapter(model) else load_model(target).state_dict()


def _first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
