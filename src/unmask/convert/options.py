"""What a user may choose about a conversion. Knows no tensor and no checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layout = Literal["a2d", "llada", "dream"]
Attention = Literal["bidirectional", "block_causal"]


@dataclass(frozen=True)
class AdaptArguments:
    """What becomes of an autoregressive checkpoint."""

    to: Layout = "a2d"
    """Layout to write: a2d (dLLM's converted families, close to the original), llada (LLaDA's own code opens it), or
    dream (Dream's own code opens it; the only one that keeps the shift: row i goes on predicting token i + 1)."""
    attention: Attention = "bidirectional"
    """Who is to see whom: everybody, or each block of block_size tokens itself and what is before it (block_causal)."""
    block_size: int | None = None
    """Tokens per block, counted from a document's beginning; default: 32. Only with attention=block_causal."""
    mask_token: str | None = None
    """Text of the mask token, known to the tokenizer or new; default: the tokenizer's own, or else the layout's."""
    mask_noise: float = 1.0
    """A new mask token's embedding is the mean of all, plus so many standard deviations of noise."""
    max_shard_size: str = "5GB"
    """Larger checkpoints are split into files of this size."""
    seed: int = 0
    """Of the noise."""
