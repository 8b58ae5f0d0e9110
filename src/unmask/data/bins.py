"""Lengths -> which of them share a row, or a forward: pure functions, without any token."""

from __future__ import annotations

import numpy as np


def first_fit_decreasing(lengths: np.ndarray, size: int) -> np.ndarray:
    """Bins of at most `size`: the longest first, each into the first bin that has room (Johnson 1973).

    Args:
        lengths: int64, from 0 to `size`.

    Returns:
        int64, the bin of each, numbered as they were opened.
    """
    room, opened = np.full(len(lengths), size, np.int64), 0
    bins = np.empty(len(lengths), np.int64)
    for index in np.argsort(-lengths, kind="stable"):
        fits = room[:opened] >= lengths[index]
        place = int(fits.argmax()) if opened else 0
        if place == opened or not fits[place]:
            place, opened = opened, opened + 1
        room[place] -= lengths[index]
        bins[index] = place
    return bins


def of_similar_length(lengths: np.ndarray, size: int) -> np.ndarray:
    """Bins of rows of similar length: sorted, as many to a bin as `size` padded tokens hold.

    Args:
        lengths: int64; one longer than `size` is a bin of its own.

    Returns:
        int64, the bin of each, the longest rows in the first.
    """
    bins = np.empty(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    start = number = 0
    while start < len(order):
        rows = max(1, size // max(1, int(lengths[order[start]])))
        bins[order[start : start + rows]] = number
        start, number = start + rows, number + 1
    return bins


def of_neighbours(lengths: np.ndarray, size: int) -> np.ndarray:
    """Bins of rows that follow each other: as many to a bin, from the first on, as `size` padded tokens hold.

    Args:
        lengths: int64; one longer than `size` is a bin of its own.

    Returns:
        int64, the bin of each, in order.
    """
    bins = np.empty(len(lengths), np.int64)
    start = number = longest = 0
    for index, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if index > start and longest * (index + 1 - start) > size:
            start, number, longest = index, number + 1, length
        bins[index] = number
    return bins
