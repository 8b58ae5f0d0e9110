"""One layer computed anew only where what it is fed has moved; elsewhere it adds to the stream what it added before.

A layer's values at all columns fed are computed and compared with those in the cache; the columns where they point
elsewhere most (the lowest cosine) are computed anew, as queries, keys and values alike. After dLLM-Cache
(arXiv:2506.06295), which keeps the outputs of attention and MLP apart; their sum is all that is needed.
Knows a layer by its parts, and no decoding method.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from unmask.models.attention import PreparedAttention
from unmask.models.kv_cache import KVCache
from unmask.models.rotary import Rotation

# cosines that differ by less are equal
ALIKE = 1e-4


def run_moved(
    layer: Any,
    index: int,
    x_BLD: Tensor,
    rotation: Rotation,
    how: PreparedAttention,
    cache: KVCache,
    eager: bool,
) -> Tensor:
    """The stream after a `dense.Layer`, the `index`th, with a share `cache.share` of the columns computed anew."""
    length = x_BLD.shape[1]
    row_B1, column_BL = cache.places(*x_BLD.shape[:2])
    changes = cache.changes_of(index, x_BLD)
    wanted = cache.anew(length)
    if wanted == length:
        after_BLD = layer(x_BLD, rotation, how, cache, eager)
        changes[row_B1, column_BL] = after_BLD - x_BLD
        return after_BLD
    unmoved_BLD = x_BLD + changes[row_B1, column_BL]
    if wanted == 0:
        return unmoved_BLD
    kept_BLGK = cache.values[index][row_B1, :, column_BL]
    values_BLGK = layer.attention.values(layer.attention_norm(x_BLD))
    chosen_Bm = least_alike(values_BLGK, kept_BLGK, wanted, cache.asked_BL)
    chosen_BmD = chosen_Bm[..., None].expand(-1, -1, x_BLD.shape[-1])
    part_BmD, whole = x_BLD.gather(1, chosen_BmD), cache.columns_BW
    cache.columns_BW = column_BL.gather(1, chosen_Bm)
    after_BmD = layer(part_BmD, rotation.at_places(chosen_Bm), how.at_places(chosen_Bm), cache, eager)
    changes[row_B1, cache.columns_BW] = after_BmD - part_BmD
    cache.columns_BW = whole
    return unmoved_BLD.scatter(1, chosen_BmD, after_BmD)


def least_alike(new_BLGK: Tensor, old_BLGK: Tensor, count: int, asked_BL: Tensor | None) -> Tensor:
    """int64 `[B, count]`, ascending: the places of each row at which both differ most; if equally, those asked about.

    In the first layer nothing moves but tokens just written, and a mask learns of them only if it is computed anew:
    were that left to chance, most of what is asked would be answered as before.
    """
    alike_BL = F.cosine_similarity(new_BLGK.flatten(2).float(), old_BLGK.flatten(2).float(), dim=-1)
    # what has not moved must not be put in order by rounding, which depends on the other rows of the batch
    order_BL = 2 * (alike_BL / ALIKE).round()
    if asked_BL is not None:
        order_BL = order_BL - asked_BL.float()
    return order_BL.argsort(dim=1, stable=True)[:, :count].sort(1).values
