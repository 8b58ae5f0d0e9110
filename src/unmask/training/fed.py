"""What a run is fed: its loaders, how many updates they last, and the noise of evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from datasets import Dataset

from unmask.diffusion.keys import Purpose
from unmask.errors import ConfigError
from unmask.training.arguments import Settings
from unmask.training.grouped import Filling
from unmask.training.ingredients import Ingredients, known_to, shares_of
from unmask.training.loading import (
    LoaderOptions,
    Noiser,
    VisitedRows,
    VisitedStream,
    eval_loader,
    stream_loader,
    train_loader,
)
from unmask.training.ordering import filling_of, packing_of, plan_of, refuse_budget_of_stream
from unmask.training.plan import RandomLength, VisitSampler

# evaluation noise is the same in all runs, whatever their seed and their noise, so that their curves compare
_EVALUATION = {
    "seed": int(Purpose.EVAL),
    "views": 1,
    "complementary": False,
    "curriculum": (),
}


def _loader_options(settings: Settings) -> LoaderOptions:
    get = settings.trainer.get
    return LoaderOptions(
        workers=get("dataloader_num_workers", 0),
        pin_memory=get("dataloader_pin_memory", True) and torch.cuda.is_available(),
        prefetch=get("dataloader_prefetch_factor"),
        persistent=get("dataloader_persistent_workers", False),
    )


class Fed(NamedTuple):
    """What a run is fed: epochs after so many updates (0 for a stream), updates, what makes the loader, how full."""

    epochs_done: Callable[[int], float]
    updates: int
    loader: Callable[[], Any]
    filling: Filling | None = None


def fed_to(settings: Settings, verb: str, parts: Ingredients, noiser: Noiser) -> Fed:
    """Training's loader.

    Raises:
        ConfigError: settings that do not go together. DataError: there is nothing to train on.
    """
    get, shares, how = settings.trainer.get, shares_of(settings), _loader_options(settings)
    rows, max_steps = parts.splits.train, get("max_steps", -1)
    if not isinstance(rows, Dataset):
        refuse_budget_of_stream(settings)
        if max_steps <= 0:
            raise ConfigError(
                "a stream has no length, so max_steps must say when to stop. Set it, or streaming: false."
            )
        crop = RandomLength(settings.data.random_length_ratio, get("seed", 42))
        stream = VisitedStream(rows, shares, max_steps * shares.accumulation, crop, packing_of(settings, verb))
        return Fed(lambda updates: 0.0, max_steps, lambda: stream_loader(stream, noiser, how))
    plan = plan_of(settings, verb, parts.splits, shares.update)
    updates = max_steps if max_steps > 0 else plan.updates_for(get("num_train_epochs", 3.0))
    loader = partial(train_loader, rows, plan, shares, updates, noiser, how)
    return Fed(plan.epochs_done, updates, loader, filling_of(plan))


def evaluated_on(settings: Settings, verb: str, rows: Any, noiser: Noiser) -> Any:
    """Evaluation's loader over all of `rows`."""
    micro = settings.trainer.get("per_device_eval_batch_size", 8)
    shares = replace(shares_of(settings), micro=micro, accumulation=1)
    samples = settings.run.eval_nll_samples if settings.objective.objective != "autoregressive" else 1
    fixed = replace(noiser, objective=evaluation_objective(noiser.objective, samples))
    packing = packing_of(settings, verb)
    return eval_loader(rows, shares, fixed, _loader_options(settings), samples, packing)


def evaluation_objective(objective: Any, samples: int = 1) -> Any:
    """The same objective under evaluation's noise, with so many noised copies of each row."""
    return replace(objective, **known_to(objective, {**_EVALUATION, "copies": samples}))


def forwards_of(settings: Settings, verb: str, parts: Ingredients, noiser: Noiser, update: int, ranks: int) -> Any:
    """What all processes were fed in one update, counted from 1, in order: an iterator over noised batches."""
    for rank in range(ranks):
        shares = replace(shares_of(settings), ranks=ranks, rank=rank)
        first, rows = (update - 1) * shares.accumulation, parts.splits.train
        if isinstance(rows, Dataset):
            visits = iter(VisitSampler(plan_of(settings, verb, parts.splits, shares.update), shares, update))
            fed: Any = map(VisitedRows(rows).__getitems__, islice(visits, first, None))
        else:
            crop = RandomLength(settings.data.random_length_ratio, settings.trainer.get("seed", 42))
            packing = packing_of(settings, verb)
            fed = islice(VisitedStream(rows, shares, update * shares.accumulation, crop, packing), first, None)
        yield from map(noiser, fed)
