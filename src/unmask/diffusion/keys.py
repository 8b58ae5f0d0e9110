"""Random numbers as a pure function of what they are for.

Philox is a counter-based generator: no state is carried from one draw to the next, so noise cannot depend on workers,
ranks, batch composition or restarts. This file does not know what the numbers are used for.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_WORD = (1 << 64) - 1


class Purpose(IntEnum):
    """Separates streams that share a seed; the values are frozen, they decide every number drawn."""

    TIME = 0
    MASK = 1
    ORDER = 2
    LENGTH = 3
    SAMPLE = 4
    SCORE = 5
    EVAL = 6


def uniforms(count: int, *, seed: int, purpose: Purpose, key: tuple[int, int, int]) -> Float[Tensor, " count"]:
    """The first `count` numbers of the stream named by (seed, purpose, key).

    Args:
        count: how many; the first k numbers do not depend on it.
        seed: the run's seed.
        purpose: what the numbers are for.
        key: three integers; each combination is a stream of its own. Integers are taken modulo 2**64.

    Returns:
        float64 `[count]` in [0, 1), on the CPU.

    Raises:
        ValueError: `count` is negative.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox 4x64).
    """
    counter = np.array([0, *(word & _WORD for word in key)], dtype=np.uint64)
    stream = np.random.Philox(counter=counter, key=np.array([seed & _WORD, int(purpose)], dtype=np.uint64))
    return torch.tensor(np.random.Generator(stream).random(count))
