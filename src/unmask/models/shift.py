"""Which hidden row predicts a token, in a checkpoint whose row i was trained to predict token i + 1.

Predictions are aligned by choosing columns before the head runs, so that no logits are moved. Knows no network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.types import AttentionSpec


def predicting_columns(
    row_n: Tensor, column_n: Tensor, *, batch: int, attention: AttentionSpec | None = None
) -> Tensor:
    """Columns whose hidden states predict the tokens at some columns: those before them.

    The first token of a document has nothing before it and is predicted by its own column, as in the official code of
    Dream. In two streams, the first noisy token of a block is predicted by the clean token before it, which is the one
    there is when blocks are decoded one after the other. In branches, states of a block that stand behind each other,
    the first token of each is predicted by the column before the block.

    Args:
        row_n, column_n: int64 `[n]`, where the tokens are that are to be predicted.
        batch: rows of the batch.
        attention: the pattern over all columns; its documents start anew.

    Returns:
        int64 `[n]`, columns of the same rows.
    """
    source_n = column_n - _follows(row_n, column_n, attention, batch).long()
    if attention is not None and attention.kind == "two_stream":
        assert attention.stream_BL is not None and attention.block_BL is not None
        first = _at(attention.block_BL, row_n, column_n, batch) != _at(attention.block_BL, row_n, source_n, batch)
        noisy = _at(attention.stream_BL, row_n, column_n, batch) == 0
        source_n = torch.where(first & noisy, source_n + attention.stream_BL.shape[1] // 2, source_n)
    if attention is not None and attention.kind == "branches":
        source_n = _of_branches(row_n, column_n, source_n, attention, batch)
    return source_n


def _of_branches(row_n: Tensor, column_n: Tensor, source_n: Tensor, attention: AttentionSpec, batch: int) -> Tensor:
    """The same, where a column begins a further state of the block that branch 1 is the first state of."""
    assert attention.block_BL is not None
    branch_n = _at(attention.block_BL, row_n, column_n, batch)
    begins_n = (branch_n > 1) & (branch_n != _at(attention.block_BL, row_n, (column_n - 1).clamp(min=0), batch))
    before_B = (attention.block_BL == 1).int().argmax(1).expand(batch) - 1
    before_n = before_B[row_n]
    return torch.where(begins_n, torch.where(before_n < 0, column_n, before_n), source_n)


def _follows(row: Tensor, column: Tensor, attention: AttentionSpec | None, batch: int) -> Tensor:
    """Whether the column before one belongs to the same document of the same stream."""
    follows, previous = column > 0, (column - 1).clamp(min=0)
    for ids in (attention.document_BL, attention.stream_BL) if attention is not None else ():
        if ids is not None:
            follows = follows & (_at(ids, row, column, batch) == _at(ids, row, previous, batch))
    return follows


def _at(ids_BL: Tensor, row: Tensor, column: Tensor, batch: int) -> Tensor:
    return ids_BL.expand(batch, -1)[row, column]
