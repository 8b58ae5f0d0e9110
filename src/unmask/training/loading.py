"""Loaders that deliver noised batches: everything random or variable in shape happens on the CPU, in their workers."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from unmask.data.collate import Collator, Visit, padded_alone
from unmask.training.plan import (
    Order,
    RandomLength,
    Shares,
    VisitSampler,
    evaluation_batches,
    row_lengths,
)
from unmask.training.work import Work, work_of
from unmask.types import Batch, map_tensors


@dataclass(frozen=True)
class NoisedBatch:
    """A batch with its noise, its share of the update's denominator, and what there is to compute."""

    batch: Batch
    noise: Any
    count: float
    tokens: int
    work: Work = Work()

    def to(self, device: torch.device | str) -> NoisedBatch:
        """The same on `device`; nothing waits."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> NoisedBatch:
        """The same in page-locked memory; DataLoader calls this."""
        return map_tensors(self, torch.Tensor.pin_memory)


@dataclass(frozen=True)
class Noiser:
    """Collate rows, then noise them: what a loader's worker runs."""

    collate: Collator
    objective: Any

    def __call__(self, rows: Sequence[tuple[Visit, Any]]) -> NoisedBatch:
        batch = self.collate(rows)
        tokens = int((batch.sample_BL >= 0).sum())
        noise = self.objective.noise(batch)
        return NoisedBatch(batch, noise, self.objective.count(batch), tokens, work_of(batch, noise))


class VisitedRows(Dataset[tuple[Visit, Any]]):
    """A dataset indexed by visits."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows.with_format("numpy")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, visits: Sequence[Visit]) -> list[tuple[Visit, Any]]:
        table = self.rows[[visit.row for visit in visits]]
        return [(visit, {name: table[name][i] for name in table}) for i, visit in enumerate(visits)]

    def __getitem__(self, visit: Visit) -> tuple[Visit, Any]:
        return self.__getitems__([visit])[0]


class VisitedStream(IterableDataset[list[tuple[Visit, Any]]]):
    """A stream of rows, cut into this rank's forwards; every rank reads all of it and takes its share.

    Args:
        rows: may be iterated again and again; each pass is an epoch.
        shares: of the run.
        forwards: how many of this rank's forwards there are.
        crop: length to use of a row.
    """

    def __init__(self, rows: Iterable[Any], shares: Shares, forwards: int, crop: RandomLength) -> None:
        self.rows = rows
        self.shares = shares
        self.forwards = forwards
        self.crop = crop

    def __len__(self) -> int:
        return self.forwards

    def __iter__(self) -> Iterator[list[tuple[Visit, Any]]]:
        visits, read = self._visits(), 0
        for index in range(self.forwards):
            numbers = self.shares.numbers(*divmod(index, self.shares.accumulation))
            seen = list(islice(visits, numbers.stop - read))
            read = numbers.stop
            yield [pair for pair in seen if pair[0].number in numbers]

    def _visits(self) -> Iterator[tuple[Visit, Any]]:
        number = epoch = 0
        while True:
            before = number
            for index, row in enumerate(self.rows):
                length = self.crop(len(row["input_ids"]), index, epoch)
                yield Visit(number, index, epoch, length, padded_alone(length)), row
                number += 1
            if number == before:
                return
            epoch += 1


@dataclass(frozen=True)
class LoaderOptions:
    """How loaders run: processes, page-locked memory, how far ahead."""

    workers: int = 0
    pin_memory: bool = False
    prefetch: int | None = None
    persistent: bool = False

    def keywords(self) -> dict[str, Any]:
        """For `DataLoader`."""
        busy = self.workers > 0
        return {
            "num_workers": self.workers,
            "pin_memory": self.pin_memory,
            "prefetch_factor": self.prefetch if busy else None,
            "persistent_workers": self.persistent and busy,
            "worker_init_fn": _ignore_signals if busy else None,
        }


def _ignore_signals(_worker: int) -> None:
    """The main process alone decides what a signal means; a worker that dies of one takes the run with it."""
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)


def train_loader(rows: Any, order: Order, shares: Shares, updates: int, noiser: Noiser, how: LoaderOptions) -> Any:
    """Loader over a dataset with random access: one item per forward of this rank, for the whole run."""
    sampler = VisitSampler(order, shares, updates)
    return DataLoader(VisitedRows(rows), batch_sampler=sampler, collate_fn=noiser, **how.keywords())  # type: ignore[arg-type]


def stream_loader(stream: VisitedStream, noiser: Noiser, how: LoaderOptions) -> Any:
    """Loader over a stream: one item per forward of this rank, for the whole run.

    At most one worker reads: several would each be given other shards of the stream, in an order that depends on them.
    """
    how = replace(how, workers=min(how.workers, 1))
    return DataLoader(stream, batch_size=None, collate_fn=noiser, **how.keywords())


def eval_loader(rows: Any, shares: Shares, noiser: Noiser, how: LoaderOptions, samples: int = 1) -> Any:
    """Loader that visits each row `samples` times; the same number of items on every rank."""
    batches = evaluation_batches(row_lengths(rows), shares, samples)
    return DataLoader(VisitedRows(rows), batch_sampler=batches, collate_fn=noiser, **how.keywords())  # type: ignore[arg-type]
