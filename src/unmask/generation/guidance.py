"""Classifier-free guidance: the same canvas with its given text hidden, and the mix of both predictions.

Knows no model and no strategy. After LLaDA (arXiv:2502.09992, appendix): l = l_u + (w + 1)(l_c - l_u).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.types import AttentionSpec


def hidden_BL(canvas: Canvas, keep: tuple[int, ...]) -> Bool[Tensor, "B L"]:
    """What the unconditional half does not see: given positions, except those whose id is in `keep`."""
    tokens_BL = canvas.tokens_BL
    is_kept_BL = torch.isin(tokens_BL, torch.tensor(keep, dtype=torch.int64, device=tokens_BL.device))
    return canvas.given_BL & ~is_kept_BL


def stacked(attention: AttentionSpec | None, rows: int, *, copies: int) -> AttentionSpec | None:
    """The attention of several copies of a batch of `rows` under each other."""
    if attention is None:
        return None
    ids = {name: getattr(attention, name) for name in ("document_BL", "block_BL", "stream_BL")}
    repeated = {name: ids_BL.expand(rows, -1).repeat(copies, 1) for name, ids_BL in ids.items() if ids_BL is not None}
    return replace(attention, **repeated)


def mix(logits_mV: Float[Tensor, "m V"], scale: float) -> Float[Tensor, "n V"]:
    """Guided logits from the n conditional rows followed by the n unconditional ones; float32 at least."""
    logits_mV = logits_mV if logits_mV.dtype == torch.float64 else logits_mV.float()
    conditional_nV, unconditional_nV = logits_mV.chunk(2)
    return unconditional_nV + (scale + 1) * (conditional_nV - unconditional_nV)
