"""How many pairs of tokens a pattern lets see each other: what attention costs at least.

Counted from the sizes of documents and blocks, without a square of all pairs. Padding does not count, on either side.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from unmask.diffusion.blocks import allowed
from unmask.types import AttentionSpec

CLEAN = 1  # among the streams of an `AttentionSpec`


def attended_pairs(spec: AttentionSpec | None, batch: int, length: int) -> int:
    """Pairs of a query and a key that it sees; of those that `ahead` draws, as many as are expected.

    Args:
        spec: the pattern; None: everybody sees everybody. Documents lie in one piece. batch, length: what is fed.
    """
    if spec is None:
        return batch * length * length
    document_BL = torch.zeros(batch, length, dtype=torch.int64) if spec.document_BL is None else spec.document_BL
    real_BL = document_BL >= 0
    row_BL = torch.arange(batch)[:, None].expand(batch, length)
    document_n = (row_BL * (1 + int(document_BL.max())) + document_BL)[real_BL]
    if spec.kind in ("bidirectional", "causal"):
        return _by_distance(spec, document_n)
    if spec.kind in ("block_causal", "two_stream") and spec.block_BL is not None and spec.window is None:
        block_n = spec.block_BL.expand(batch, length)[real_BL]
        stream_n = torch.full_like(block_n, CLEAN)
        if spec.kind == "two_stream" and spec.stream_BL is not None:
            stream_n = spec.stream_BL.expand(batch, length)[real_BL]
        return _by_block(document_n, block_n, stream_n)
    return int((allowed(spec, batch, length) & real_BL[:, :, None] & real_BL[:, None, :]).sum())


def _by_distance(spec: AttentionSpec, document_n: Int[Tensor, " n"]) -> int:
    """Each token with itself, those before it, and, unless the pattern is causal, those behind it."""
    document = document_n.numpy()
    starts = np.flatnonzero(np.diff(document, prepend=-1))
    sizes = np.diff(starts, append=len(document))
    # of a token among those of its document
    before = np.arange(len(document)) - np.repeat(starts, sizes)
    behind = np.repeat(sizes, sizes) - 1 - before
    if spec.window is not None:
        before, behind = before.clip(max=spec.window), behind.clip(max=spec.window)
    share = 1.0 if spec.kind == "bidirectional" else spec.ahead
    return len(document) + int(before.sum()) + round(share * int(behind.sum()))


def _by_block(document_n: Int[Tensor, " n"], block_n: Int[Tensor, " n"], stream_n: Int[Tensor, " n"]) -> int:
    """Each token with its own block in its own stream, and the clean tokens of the blocks before it."""
    if len(document_n) == 0:
        return 0
    block_n = block_n - block_n.min()
    streams, blocks = 1 + int(stream_n.max()), 1 + int(block_n.max())
    key_n = (document_n * blocks + block_n) * streams + stream_n
    key_G, size_G = np.unique(key_n.numpy(), return_counts=True)
    clean_G = np.where(key_G % streams == CLEAN, size_G, 0)
    before_G = np.concatenate([[0], clean_G.cumsum()])
    first_of_block_G = np.searchsorted(key_G, key_G - key_G % streams)
    first_of_document_G = np.searchsorted(key_G, key_G - key_G % (streams * blocks))
    seen_G = size_G + before_G[first_of_block_G] - before_G[first_of_document_G]
    return int((size_G * seen_G).sum())
