"""Plans whose unit is several samples: a packed row, or a forward of rows of similar length.

Like every plan a pure function of (lengths, seed, epoch). The samples of an epoch, in their random order, are taken in
stretches; those of a stretch are put together by length, and what comes of it is shuffled. Samples are numbered as they
are then visited. An epoch holds each of its samples once, but not always as many units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from unmask.data.bins import first_fit_decreasing, of_neighbours, of_similar_length
from unmask.data.collate import Visit
from unmask.data.ends import PackedEnds, padded_alone
from unmask.diffusion.keys import Purpose, uniforms
from unmask.training.plan import Order, Shares

# units of a stretch: of 256 packed rows one that is half empty is a fifth of a percent
_TOGETHER = 256
# Third word of the keys here; `Order` has 0 there, `Mixture` 1 and 2.
_OF_GROUPS = 3


@dataclass(frozen=True)
class Grouping:
    """Which samples make a unit.

    Attributes:
        kind: `row`: laid end to end in one; `forward`: rows of one forward, of similar length.
        size: tokens of a row, or padded tokens of a forward.
        ends: where each sample ends, its learned padding included.
        seed: of the order of units; None: they come in the order of their first samples, and forwards hold samples that
            follow each other, whatever their lengths.
    """

    kind: Literal["row", "forward"]
    size: int
    ends: PackedEnds = field(default_factory=PackedEnds)
    seed: int | None = None

    def stretches(self, tokens: int) -> int:
        """How many stretches so many tokens are cut into."""
        return max(1, round(tokens / (self.size * _TOGETHER)))

    def units(self, ends: np.ndarray, epoch: int, stretch: int) -> list[np.ndarray]:
        """The samples of a stretch, given where they end, by unit: their places in it, int64."""
        if not len(ends):
            return []
        of_forwards = of_neighbours if self.seed is None else of_similar_length
        put = first_fit_decreasing if self.kind == "row" else of_forwards
        bins = put(ends, max(self.size, int(ends.max())) if self.kind == "row" else self.size)
        units = np.split(np.argsort(bins, kind="stable"), np.cumsum(np.bincount(bins))[:-1])
        keys = [int(unit[0]) for unit in units]
        if self.seed is not None:
            key = (epoch, stretch, _OF_GROUPS)
            keys = uniforms(len(units), seed=self.seed, purpose=Purpose.ORDER, key=key).tolist()
        return [units[index] for index in np.argsort(keys, kind="stable")]


class _Epoch(NamedTuple):
    """One epoch: its samples in visiting order, and where each unit begins among them (one more than units)."""

    rows: np.ndarray
    passes: np.ndarray
    lengths: np.ndarray
    ends: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class Filling:
    """How well the units of an epoch are filled.

    Attributes:
        kind: of the units. units, samples: of an epoch. share: tokens of what they hold, from 0 to 1.
        learned_ends: end-of-text tokens behind samples, a share of all tokens.
    """

    kind: str
    size: int
    units: int
    samples: int
    share: float
    learned_ends: float

    def __str__(self) -> str:
        what = "packed rows" if self.kind == "row" else "forwards"
        return (
            f"{self.samples:,} samples in {self.units:,} {what} of {self.size:,} tokens per epoch: "
            f"{100 * self.share:.1f} % filled, {100 * self.learned_ends:.1f} % of it learned end-of-text"
        )


class GroupedOrder:
    """The order of another plan's samples, in units.

    Args:
        order: of the samples; its `update` counts units here. grouping: which samples make a unit.
    """

    def __init__(self, order: Order, grouping: Grouping) -> None:
        self.order = order
        self.grouping = grouping
        self._firsts = [0]
        self._epoch = lru_cache(maxsize=2)(self._drawn)

    def groups(self, update: int) -> list[list[Visit]]:
        """The units of an update, in order."""
        first = update * self.order.update
        return [self._unit(number, update) for number in range(first, first + self.order.update)]

    def updates_for(self, epochs: float) -> int:
        """Updates that see the dataset `epochs` times; the last one is filled up with what comes next."""
        whole = int(epochs)
        units, wanted = self._first(whole), round((epochs - whole) * len(self.order.lengths), 6)
        if wanted > 0:
            units += int(np.searchsorted(self._epoch(whole).starts, wanted))
        return max(1, math.ceil(units / self.order.update))

    def epochs_done(self, updates: int) -> float:
        """How often the dataset was seen after so many updates."""
        epoch, place = self._found(updates * self.order.update)
        return epoch + int(self._epoch(epoch).starts[place]) / len(self.order.lengths)

    def filling(self) -> Filling:
        """Of the first epoch."""
        drawn, size, kind = self._epoch(0), self.grouping.size, self.grouping.kind
        units, tokens = len(drawn.starts) - 1, int(drawn.ends.sum())
        room = units * size
        if kind == "forward":
            longest = np.maximum.reduceat(drawn.ends, drawn.starts[:-1])
            room = int((longest * np.diff(drawn.starts)).sum())
        behind = 1 - int(drawn.lengths.sum()) / tokens
        return Filling(kind, size, units, len(drawn.rows), tokens / room, behind)

    def _unit(self, number: int, update: int) -> list[Visit]:
        epoch, place = self._found(number)
        drawn, before = self._epoch(epoch), epoch * len(self.order.lengths)
        here = slice(int(drawn.starts[place]), int(drawn.starts[place + 1]))
        ends = drawn.ends[here]
        packed = self.grouping.kind == "row"
        told = zip(*(values[here].tolist() for values in (drawn.rows, drawn.passes, drawn.lengths)), strict=True)
        return [
            Visit(
                number=before + index,
                row=row,
                epoch=seen,
                length=length,
                padded=int(end) if packed else int(ends.max()),
                bin=number if packed else None,
                update=update,
            )
            for (index, end), (row, seen, length) in zip(enumerate(ends, here.start), told, strict=True)
        ]

    def _found(self, number: int) -> tuple[int, int]:
        """The epoch of a unit, and its place in it."""
        while self._firsts[-1] <= number:
            self._first(len(self._firsts))
        epoch = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return epoch, number - self._firsts[epoch]

    def _first(self, epoch: int) -> int:
        """The number of an epoch's first unit, for which those before must be known."""
        while len(self._firsts) <= epoch:
            self._firsts.append(self._firsts[-1] + len(self._epoch(len(self._firsts) - 1).starts) - 1)
        return self._firsts[epoch]

    def _drawn(self, epoch: int) -> _Epoch:
        rows, passes, lengths = self.order.epoch(epoch)
        ends = self.grouping.ends(lengths, rows, passes)
        parts = np.array_split(np.arange(len(rows)), self.grouping.stretches(int(ends.sum())))
        units = [
            part[unit] for number, part in enumerate(parts) for unit in self.grouping.units(ends[part], epoch, number)
        ]
        order, starts = np.concatenate(units), np.cumsum([0, *map(len, units)])
        return _Epoch(rows[order], passes[order], lengths[order], ends[order], starts)


def evaluation_batches(
    lengths: np.ndarray, shares: Shares, samples: int = 1, grouping: Grouping | None = None
) -> list[list[Visit]]:
    """Each row, in order or packed, the same number of batches on every rank: unequal counts would hang sharded models.

    Each of a row's `samples` visits counts as another epoch, so that it gets other noise. What is missing at the end is
    filled up with row 0, not counted. The result depends neither on the batch size nor on packing.
    """
    units = list(_evaluated(lengths, samples, grouping))
    rounds = range(math.ceil(len(units) / shares.update))
    total = len(lengths) * samples
    batches = []
    for index in rounds:
        numbers = shares.numbers(index, 0)
        spare = [_filler(total + number, lengths) for number in numbers if number >= len(units)]
        batches.append([visit for unit in units[numbers.start : numbers.stop] for visit in unit] + spare)
    return batches


def _evaluated(lengths: np.ndarray, samples: int, grouping: Grouping | None) -> Iterator[list[Visit]]:
    rows, epochs = np.divmod(np.arange(len(lengths) * samples), samples)
    visits = [
        Visit(number, int(row), int(epoch), int(lengths[row]), padded_alone(int(lengths[row])))
        for number, (row, epoch) in enumerate(zip(rows, epochs, strict=True))
    ]
    if grouping is None:
        yield from ([visit] for visit in visits)
        return
    ends = np.array([visit.padded for visit in visits])
    if grouping.ends.padding != "eos":
        ends = grouping.ends(lengths[rows], rows, epochs)
    number = 0
    for part in np.array_split(np.arange(len(visits)), grouping.stretches(int(ends.sum()))):
        for unit in grouping.units(ends[part], 0, 0):
            yield [replace(visits[part[place]], bin=number) for place in unit]
            number += 1


def _filler(number: int, lengths: np.ndarray) -> Visit:
    return Visit(number, 0, 0, int(lengths[0]), padded_alone(int(lengths[0])), counted=False)
