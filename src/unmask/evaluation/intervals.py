"""How sure a mean is: intervals that hold it 95 times in 100. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z = 1.959963984540054  # the normal distribution lies within so many standard deviations 95 times in 100


def wilson(right: float, count: int) -> tuple[float, float]:
    """The score interval of a share, `right` out of `count` (Wilson 1927); good for few and for extreme shares too.

    Raises:
        ValueError: `count` is 0, or `right` is not within 0..count.
    """
    if not 0 <= right <= count or count == 0:
        raise ValueError(f"{right} of {count} is no share")
    share, weight = right / count, Z * Z / count
    middle = share + weight / 2
    spread = Z * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    low, high = (middle - spread) / (1 + weight), (middle + spread) / (1 + weight)
    # exactly so; rounding would leave a little
    return (0.0 if right == 0 else low, 1.0 if right == count else high)


def bootstrap(values: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The percentile interval of a mean, from means of samples drawn with replacement (Efron 1979).

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values")
    given, draw = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = [given[draw.integers(0, len(given), len(given))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
