"""Which row is seen when: a pure function of the rows' lengths, the seed and the sizes of the run.

The run visits samples number 0, 1, 2, ...; update k owns the units [k G, (k + 1) G), G being the global batch. A unit
is a sample, or the samples that share a packed row, or those of a forward (`grouped`). Ranks, workers and accumulation
only share out an update's units, so none of them changes what is learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Sampler

from unmask.data.collate import Visit
from unmask.data.mixture import Mixture
from unmask.diffusion.keys import Purpose, uniforms

# updates that are sorted by length together, where that is asked for: sorting all would show long rows first, always
_SORTED_TOGETHER = 50


@dataclass(frozen=True)
class Shares:
    """How an update's units are shared out.

    Attributes:
        micro: units of one forward. accumulation: forwards of one rank. ranks: processes. rank: this one.
    """

    micro: int
    accumulation: int = 1
    ranks: int = 1
    rank: int = 0

    @property
    def update(self) -> int:
        """Units of an update, G."""
        return self.micro * self.accumulation * self.ranks

    def numbers(self, update: int, forward: int) -> range:
        """The numbers of the units of this rank's `forward`-th forward in an update."""
        start = update * self.update + (forward * self.ranks + self.rank) * self.micro
        return range(start, start + self.micro)


@dataclass(frozen=True)
class RandomLength:
    """Some visits see only a random part of their row, from its start (LLaDA's pretraining: 1 % of them).

    Attributes:
        ratio: their share. seed: of the choice, which depends on row and epoch alone.
    """

    ratio: float = 0.0
    seed: int = 0

    def __call__(self, length: int, row: int, epoch: int) -> int:
        """Tokens to use of a row of `length`."""
        if self.ratio <= 0:
            return length
        chance, share = uniforms(2, seed=self.seed, purpose=Purpose.LENGTH, key=(row, epoch, 0)).tolist()
        return 1 + int(share * length) if chance < self.ratio else length


class Plan(Protocol):
    """What is seen when."""

    def groups(self, update: int) -> list[list[Visit]]:
        """The units of an update, in order."""
        ...

    def updates_for(self, epochs: float) -> int:
        """Updates that see the dataset `epochs` times."""
        ...

    def epochs_done(self, updates: int) -> float:
        """How often the dataset was seen after so many updates."""
        ...


class Order:
    """The visiting order of a dataset whose rows can be had in any order.

    Args:
        lengths: tokens of each row.
        seed: of the permutations.
        update: samples of an update.
        shuffle: False visits rows as they stand.
        by_length: rows of an update are of similar length, updates are still in random order.
        crop: length to use of a row.
        mixture: how the rows of an epoch are drawn; None: each once.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        seed: int,
        update: int,
        shuffle: bool = True,
        by_length: bool = False,
        crop: RandomLength | None = None,
        mixture: Mixture | None = None,
    ) -> None:
        self.lengths = lengths
        self.seed = seed
        self.update = update
        self.shuffle = shuffle
        self.by_length = by_length
        self.crop = crop or RandomLength()
        self.mixture = mixture
        self._permutation = lru_cache(maxsize=3)(self._draw_permutation)

    def visits(self, update: int) -> list[Visit]:
        """The samples of an update, in order, each with the length of the update's longest."""
        numbers = range(update * self.update, (update + 1) * self.update)
        placed = [self._place(number) for number in numbers]
        longest = max(length for *_, length in placed)
        return [
            Visit(number, row, epoch, length, longest, update=update)
            for number, (row, epoch, length) in zip(numbers, placed, strict=True)
        ]

    def groups(self, update: int) -> list[list[Visit]]:
        """The samples of an update, each a unit."""
        return [[visit] for visit in self.visits(update)]

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows of an epoch in order, how often each was seen before, and how much of it is used; int64."""
        rows, passes = self._permutation(epoch)
        lengths = self.lengths[rows]
        if self.crop.ratio > 0:
            used = (self.crop(*map(int, one)) for one in zip(lengths, rows, passes, strict=True))
            lengths = np.fromiter(used, np.int64, len(rows))
        return rows, passes, lengths

    def epochs_done(self, updates: int) -> float:
        """How often the dataset was seen after so many updates."""
        return updates * self.update / len(self.lengths)

    def updates_for(self, epochs: float) -> int:
        """Updates that see the dataset `epochs` times; the last one is filled up with the rows that come next."""
        return max(1, math.ceil(round(epochs * len(self.lengths), 6) / self.update))

    def _place(self, number: int) -> tuple[int, int, int]:
        epoch, place = divmod(number, len(self.lengths))
        rows, passes = self._permutation(epoch)
        row, seen = int(rows[place]), int(passes[place])
        return row, seen, self.crop(int(self.lengths[row]), row, seen)

    def _draw_permutation(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of an epoch in order, and how often each was seen before."""
        rows, passes = self._drawn(epoch)
        if not (self.shuffle and self.by_length):
            return rows, passes
        places = self._grouped(rows, epoch)
        return rows[places], passes[places]

    def _drawn(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if self.mixture:
            return self.mixture.epoch(epoch, self.seed, self.shuffle)
        rows = np.arange(len(self.lengths))
        if self.shuffle:
            rows = np.argsort(uniforms(len(rows), seed=self.seed, purpose=Purpose.ORDER, key=(epoch, 0, 0)).numpy())
        return rows, np.full(len(rows), epoch)

    def _grouped(self, order: np.ndarray, epoch: int) -> np.ndarray:
        """Places in the order: stretches of it are sorted by length, then the updates inside each are shuffled."""
        stretch = self.update * _SORTED_TOGETHER
        parts = []
        for index, start in enumerate(range(0, len(order), stretch)):
            places = np.arange(start, min(start + stretch, len(order)))
            places = places[np.argsort(-self.lengths[order[places]], kind="stable")]
            updates = [places[i : i + self.update] for i in range(0, len(places), self.update)]
            shuffled = uniforms(len(updates), seed=self.seed, purpose=Purpose.ORDER, key=(epoch, index + 1, 0)).numpy()
            # a stretch's last, shorter update stays last, or it would tear those behind it
            whole = len(updates) - (len(updates[-1]) < self.update)
            parts += [updates[i] for i in np.argsort(shuffled[:whole])] + updates[whole:]
        return np.concatenate(parts)


class VisitSampler(Sampler[list[Visit]]):
    """This rank's forwards of a whole run, one list of visits each."""

    def __init__(self, plan: Plan, shares: Shares, updates: int) -> None:
        self.plan = plan
        self.shares = shares
        self.updates = updates

    def __len__(self) -> int:
        return self.updates * self.shares.accumulation

    def __iter__(self) -> Iterator[list[Visit]]:
        for update in range(self.updates):
            groups, first = self.plan.groups(update), update * self.shares.update
            for forward in range(self.shares.accumulation):
                numbers = self.shares.numbers(update, forward)
                yield list(chain.from_iterable(groups[numbers.start - first : numbers.stop - first]))


def row_lengths(dataset: Any) -> np.ndarray:
    """Tokens of each row of a `datasets.Dataset`, without reading the tokens into Python."""
    import pyarrow.compute

    columns = dataset.select_columns("input_ids").with_format("arrow").iter(10_000)
    counts = [pyarrow.compute.call_function("list_value_length", [table["input_ids"]]).to_numpy() for table in columns]
    return np.concatenate(counts).astype(np.int64) if counts else np.zeros(0, dtype=np.int64)
