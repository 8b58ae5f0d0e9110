"""Loaders that deliver noised batches: everything random or variable in shape happens on the CPU, in their workers."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from unmask.data.collate import Collator, Visit
from unmask.data.ends import padded_alone
from unmask.training.grouped import Grouping, evaluation_batches
from unmask.training.plan import Plan, RandomLength, Shares, VisitSampler, row_lengths
from unmask.training.work import Work, work_of
from unmask.types import Batch, map_tensors

# packed rows that a stream's buffer holds; more would fill rows better, by less than a percent
_BUFFERED = 64


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
        packing: rows are laid end to end, out of those that a buffer of bounded size holds; None: they are not.
    """

    def __init__(
        self, rows: Iterable[Any], shares: Shares, forwards: int, crop: RandomLength, packing: Grouping | None = None
    ) -> None:
        self.rows = rows
        self.shares = shares
        self.forwards = forwards
        self.crop = crop
        self.packing = packing

    def __len__(self) -> int:
        return self.forwards

    def __iter__(self) -> Iterator[list[tuple[Visit, Any]]]:
        units, read = self._units(), 0
        for index in range(self.forwards):
            update, forward = divmod(index, self.shares.accumulation)
            numbers = self.shares.numbers(update, forward)
            deque(islice(units, numbers.start - read), maxlen=0)
            seen = list(islice(units, len(numbers)))
            read = numbers.stop
            yield [(replace(visit, update=update), row) for unit in seen for visit, row in unit]

    def _units(self) -> Iterator[list[tuple[Visit, Any]]]:
        """The stream as samples or packed rows, again and again."""
        number = unit = epoch = 0
        while True:
            before = number
            units = ([pair] for pair in self._passed(epoch))
            for pairs in units if self.packing is None else self._packed(epoch, self.packing):
                bin_ = None if self.packing is None else unit
                yield [(replace(visit, number=number + i, bin=bin_), row) for i, (visit, row) in enumerate(pairs)]
                number, unit = number + len(pairs), unit + 1
            if number == before:
                return
            epoch += 1

    def _passed(self, epoch: int) -> Iterator[tuple[Visit, Any]]:
        for index, row in enumerate(self.rows):
            length = self.crop(len(row["input_ids"]), index, epoch)
            yield Visit(0, index, epoch, length, padded_alone(length)), row

    def _packed(self, epoch: int, packing: Grouping) -> Iterator[list[tuple[Visit, Any]]]:
        rows, stretch = iter(self._passed(epoch)), 0
        while held := _some(rows, packing, epoch):
            for unit in packing.units(np.array([visit.padded for visit, _ in held]), epoch, stretch):
                yield [held[place] for place in unit]
            stretch += 1


def _some(rows: Iterator[tuple[Visit, Any]], packing: Grouping, epoch: int) -> list[tuple[Visit, Any]]:
    """The next rows, as many as are packed together, each with its end."""
    held, tokens = [], 0
    for visit, row in rows:
        end = packing.ends(*(np.array([value]) for value in (visit.length, visit.row, epoch))).item()
        held.append((replace(visit, padded=end), row))
        tokens += end
        if tokens >= _BUFFERED * packing.size:
            break
    return held


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


def train_loader(rows: Any, plan: Plan, shares: Shares, updates: int, noiser: Noiser, how: LoaderOptions) -> Any:
    """Loader over a dataset with random access: one item per forward of this rank, for the whole run."""
    sampler = VisitSampler(plan, shares, updates)
    return DataLoader(VisitedRows(rows), batch_sampler=sampler, collate_fn=noiser, **how.keywords())  # type: ignore[arg-type]


def stream_loader(stream: VisitedStream, noiser: Noiser, how: LoaderOptions) -> Any:
    """Loader over a stream: one item per forward of this rank, for the whole run.

    At most one worker reads: several would each be given other shards of the stream, in an order that depends on them.
    """
    how = replace(how, workers=min(how.workers, 1))
    return DataLoader(stream, batch_size=None, collate_fn=noiser, **how.keywords())


def eval_loader(
    rows: Any, shares: Shares, noiser: Noiser, how: LoaderOptions, samples: int = 1, packing: Grouping | None = None
) -> Any:
    """Loader that visits each row `samples` times; the same number of items on every rank."""
    batches = evaluation_batches(row_lengths(rows), shares, samples, packing)
    return DataLoader(VisitedRows(rows), batch_sampler=batches, collate_fn=noiser, **how.keywords())  # type: ignore[arg-type]
