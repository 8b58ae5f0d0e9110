"""Which hidden row predicts a token, in a checkpoint whose row i was trained to predict token i + 1.

Predictions are aligned by choosing rows before the head runs, so that no logits are moved. Knows no network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.types import AttentionSpec


def predicting_rows(
    at_n: Tensor, *, batch: int, length: int, attention: AttentionSpec | None = None, start: int = 0
) -> Tensor:
    """Rows that predict the tokens at some positions: those before them.

    The first token of a document has nothing before it and is predicted by its own row, as in the official code of
    Dream. In two streams, the first noisy token of a block is predicted by the clean token before it, which is the row
    there is when blocks are decoded one after the other.

    Args:
        at_n: int64 flat positions into `[batch * length]`, the rows that were fed.
        batch, length: of what was fed.
        attention: the pattern over all columns; its documents start anew.
        start: column of the first row fed; above 0, the row of the column before it stands in front of the others.

    Returns:
        int64 `[n]`, flat positions into `[batch * (length + (start > 0))]`.
    """
    row, column = at_n // length, start + at_n % length
    source = column - _follows(row, column, attention, batch).long()
    if attention is not None and attention.kind == "two_stream":
        assert attention.stream_BL is not None and attention.block_BL is not None
        first = _at(attention.block_BL, row, column, batch) != _at(attention.block_BL, row, source, batch)
        noisy = _at(attention.stream_BL, row, column, batch) == 0
        source = torch.where(first & noisy, source + attention.stream_BL.shape[1] // 2, source)
    width, before = length + (start > 0), int(start > 0)
    return row * width + source - start + before


def _follows(row: Tensor, column: Tensor, attention: AttentionSpec | None, batch: int) -> Tensor:
    """Whether the column before one belongs to the same document of the same stream."""
    follows, previous = column > 0, (column - 1).clamp(min=0)
    for ids in (attention.document_BL, attention.stream_BL) if attention is not None else ():
        if ids is not None:
            follows = follows & (_at(ids, row, column, batch) == _at(ids, row, previous, batch))
    return follows


def _at(ids_BL: Tensor, row: Tensor, column: Tensor, batch: int) -> Tensor:
    return ids_BL.expand(batch, -1)[row, column]
