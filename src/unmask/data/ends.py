"""How many end-of-text tokens are learned behind a row where no other row may have a say.

Of one answer alone the length must not be told by the tokens behind it: a model that has always seen as many, or never
more than thirty, knows where an answer ends from the edge of its canvas. Knows neither batches nor tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Padding = Literal["eos", "none", "block", "max_length"]
# tokens; on average half of it is padding
_PADDED_TO = 32
# two irrational steps: numbers that fill [0, 1) evenly over any consecutive rows, and over the epochs of one row
_ROW_STEP, _EPOCH_STEP = 0.6180339887498949, 0.4142135623730951


def padded_alone(length: int) -> int:
    """Where learned end-of-text tokens end in evaluation and in streams: at the next multiple of 32."""
    return block_end(length, _PADDED_TO)


def block_end(length: int, size: int) -> int:
    """The end of the block that the last of `length` tokens is in."""
    return -(-length // size) * size


@dataclass(frozen=True)
class PackedEnds:
    """Where each document of a packed row ends, its learned end-of-text tokens included.

    Attributes:
        padding: the policy. block_size: for `block`.
        most: for `eos`, the most end-of-text tokens behind a document. Their number is drawn so that every order of
            magnitude is as frequent: one or two as often as 32 to 64. It is a function of (row, epoch).
        max_length: no document is longer.
    """

    padding: Padding = "none"
    block_size: int = 32
    most: int = 64
    max_length: int = 1024

    def __call__(self, lengths: np.ndarray, rows: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """int64, one per document, from their int64 lengths, rows and epochs."""
        if self.padding == "none":
            return lengths
        if self.padding == "max_length":
            return np.full_like(lengths, self.max_length)
        if self.padding == "block":
            return -(-lengths // self.block_size) * self.block_size
        share = (rows * _ROW_STEP + epochs * _EPOCH_STEP) % 1.0
        drawn = np.floor((self.most + 1) ** share).astype(np.int64) if self.most else 0
        return np.maximum(np.minimum(lengths + drawn, self.max_length), lengths)
