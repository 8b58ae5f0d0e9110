"""Datasets mixed by weight: which row of which dataset is seen at each place of an epoch.

A weight is a share of the rows that are drawn, whatever the size of its dataset: with weights 3 and 1, three rows in
four come from the first. An epoch has as many rows as all datasets together. Of a dataset larger than its part of the
epoch, other rows are drawn in the next epoch, until all were; a smaller one is gone through more than once. Everything
is a function of (seed, epoch). Knows nothing of what a row holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from unmask.diffusion.keys import Purpose, uniforms
from unmask.errors import DataError

# Third word of the keys here; the run's own order has 0 there.
_WITHIN, _BETWEEN = 1, 2


@dataclass(frozen=True)
class Mixture:
    """Datasets that lie one behind the other in a table.

    Attributes:
        sizes: rows of each, all above 0. weights: of each, above 0.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows drawn of each in an epoch; what rounding leaves goes to the largest remainders.

        Raises:
            DataError: a weight is too small for a single row.
        """
        shares = np.array(self.weights) / sum(self.weights) * sum(self.sizes)
        counts = np.floor(shares).astype(int)
        most = np.argsort(counts - shares, kind="stable")[: sum(self.sizes) - int(counts.sum())]
        counts[most] += 1
        if not counts.all():
            weight = self.weights[int(np.argmin(counts))]
            raise DataError(f"weight:{weight:g} is no row in an epoch of {sum(self.sizes):,}; give a larger weight")
        return tuple(counts.tolist())

    def epoch(self, epoch: int, seed: int, shuffle: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers of an epoch in the order they are seen, and how often each was seen before (int64 both)."""
        drawn = [self._draw(index, epoch, seed, shuffle) for index in range(len(self.sizes))]
        if shuffle:
            keys = uniforms(sum(self.sizes), seed=seed, purpose=Purpose.ORDER, key=(epoch, 0, _BETWEEN)).numpy()
        else:
            keys = np.concatenate([(np.arange(count) + 0.5) / count for count in self.counts])
        order = np.argsort(keys, kind="stable")
        rows, passes = (np.concatenate(part)[order] for part in zip(*drawn, strict=True))
        return rows, passes

    def _draw(self, index: int, epoch: int, seed: int, shuffle: bool) -> tuple[np.ndarray, np.ndarray]:
        """One dataset's rows of an epoch: it is gone through again and again, each time in another order."""
        size, wanted = self.sizes[index], self.counts[index]
        numbers = np.arange(epoch * wanted, (epoch + 1) * wanted)
        passes, places = np.divmod(numbers, size)
        rows = np.empty_like(numbers)
        for each in np.unique(passes):
            key = (int(each), index, _WITHIN)
            order = np.arange(size)
            if shuffle:
                order = np.argsort(uniforms(size, seed=seed, purpose=Purpose.ORDER, key=key).numpy(), kind="stable")
            rows[passes == each] = order[places[passes == each]]
        return rows + sum(self.sizes[:index]), passes


def interleaved(starts: Sequence[Callable[[], Iterator[Any]]], weights: Sequence[float]) -> Iterator[Any]:
    """Streams mixed by weight, without end: at every place, no stream is a whole row behind or ahead of its share.

    A stream that ends is started anew.

    Raises:
        DataError: a stream is empty.
    """
    shares = np.array(weights) / sum(weights)
    drawn = np.zeros(len(starts))
    running = [start() for start in starts]
    for number in count(1):
        index = int(np.argmax(shares * number - drawn))
        row = next(running[index], None)
        if row is None:
            running[index] = starts[index]()
            row = next(running[index], None)
        if row is None:
            raise DataError(f"stream {index + 1} of {len(starts)} holds no row")
        drawn[index] += 1
        yield row
