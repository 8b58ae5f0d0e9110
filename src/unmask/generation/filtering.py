"""Which tokens may be proposed at all: the k most probable ones, the fewest that hold a share p of the probability.

Probabilities are computed from the filtered logits, so that those of what is left add up to one, as in the samplers of
LLaDA2, SDAR and Dream. Knows neither the temperature's draw nor which positions are chosen.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def filter_logits(
    logits_nV: Float[Tensor, "n V"], top_k: int | None = None, top_p: float | None = None, *, temperature: float = 1.0
) -> Float[Tensor, "n V"]:
    """The logits with -inf at tokens that may not be proposed; at least one token of each row is left.

    First `top_k`, then `top_p` of what that leaves, the order of transformers, LLaDA2 and SDAR; Dream's is the other.

    Args:
        logits_nV: float; not changed.
        top_k: keep this many highest logits, and all that equal the lowest of them; None: all.
        top_p: keep the fewest most probable tokens that hold at least this share, the earlier id where they are
            equal; None: all.
        temperature: above 0; `top_p` measures softmax(logits / temperature). What is returned is not divided.
    """
    if top_k is not None and top_k < logits_nV.shape[1]:
        least_n1 = logits_nV.topk(top_k, dim=-1).values[:, -1:]
        logits_nV = logits_nV.masked_fill(logits_nV < least_n1, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered_nV, token_nV = (logits_nV / temperature).sort(dim=-1, descending=True, stable=True)
        share_nV = ordered_nV.softmax(-1)
        # A token is needed while those before it hold less than the share; nothing is before the first.
        is_needed_nV = share_nV.cumsum(-1) - share_nV < top_p
        is_kept_nV = torch.zeros_like(is_needed_nV).scatter(1, token_nV, is_needed_nV)
        logits_nV = logits_nV.masked_fill(~is_kept_nV, -torch.inf)
    return logits_nV
