"""Attention inside documents that stand one behind the other: each by itself, so that no mask exists at all.

For a CPU, where a kernel of a few dozen tokens costs little. What a document is, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
Runs = tuple[tuple[int, ...], ...]


def runs_of(document_BL: Tensor) -> Runs | None:
    """The lengths of the documents in each row, padding between them included; it waits for the device.

    Args:
        document_BL: int64; document of a position, negative for padding.

    Returns:
        None where a document is not all in one piece. One row where all have the same.
    """
    rows = [_runs(row) for row in document_BL.unbind(0)]
    if any(row is None for row in rows):
        return None
    runs = tuple(row for row in rows if row is not None)
    return runs[:1] if len(set(runs)) == 1 else runs


def _runs(document_L: Tensor) -> tuple[int, ...] | None:
    documents, lengths = torch.unique_consecutive(document_L, return_counts=True)
    real = documents[documents >= 0]
    return tuple(lengths.tolist()) if len(real.unique()) == len(real) else None


def attend_by_documents(q_BHLK: Tensor, k_BGLK: Tensor, v_BGLK: Tensor, runs: Runs, kernel: Kernel) -> Tensor:
    """Attention of each document to itself; `kernel` takes queries, keys and values. Returns `[B, H, L, K]`."""
    if len(runs) == 1:
        return _row(q_BHLK, k_BGLK, v_BGLK, runs[0], kernel)
    # split and not sliced: the gradient of a split is one concatenation, that of a slice is as large as the whole
    rows = zip(q_BHLK.split(1), k_BGLK.split(1), v_BGLK.split(1), runs, strict=True)
    return torch.cat([_row(q, k, v, lengths, kernel) for q, k, v, lengths in rows])


def _row(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], kernel: Kernel) -> Tensor:
    pieces = zip(q.split(lengths, 2), k.split(lengths, 2), v.split(lengths, 2), strict=True)
    # laid out as the projection behind attention reads it: position by position
    return torch.cat([kernel(*piece).transpose(1, 2) for piece in pieces], dim=1).transpose(1, 2)
