"""What heads of queries see of keys and values: a pattern in the form that a kernel takes, and the kernels.

A pattern (`AttentionSpec`) is turned once per forward into what the kernel needs; where everybody sees everybody, no
mask exists at all. This file knows no weights: those of a layer's attention are in `dense.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.models.cpu_attention import attend_in_tiles, is_for_tiles
from unmask.models.documents import Runs, attend_by_documents, runs_of
from unmask.models.patterns import rule_of, who_sees
from unmask.models.tiled import TILE, Tile, attend_by_flex, attend_by_tiles, block_mask, spelt_out, tiles_of
from unmask.types import AttentionSpec

# kinds in which a query sees few keys, or a row is fed twice
_SPARSE = ("block_causal", "two_stream")


@dataclass(frozen=True)
class PreparedAttention:
    """An `AttentionSpec` in the form the kernel takes: `mask` is boolean, True where a query sees a key.

    Blocks and streams, of which most is hidden from most, are `tiles`, each with a mask of its own, or on a GPU
    `blocks`, as flex_attention takes them. Packed documents are `runs`, each attended to by itself, or `blocks`.
    """

    mask: Tensor | None = None
    causal: bool = False
    tiles: tuple[Tile, ...] = ()
    blocks: Any = None
    runs: Runs = ()

    @property
    def can_part(self) -> bool:
        """Whether some of the queries can be had alone."""
        return not (self.causal or self.tiles or self.runs or self.blocks is not None)

    def part(self, queries: slice) -> PreparedAttention:
        """What some of the queries see."""
        if self.mask is None or self.mask.shape[2] == 1:
            return self
        return replace(self, mask=self.mask[:, :, queries])

    def at_places(self, place_Bm: Tensor) -> PreparedAttention:
        """What other queries in each row see, where some can be had alone."""
        if self.mask is None or self.mask.shape[2] == 1:
            return self
        place_BmL = place_Bm[:, None, :, None].expand(-1, -1, -1, self.mask.shape[3])
        return replace(self, mask=self.mask.expand(len(place_Bm), -1, -1, -1).gather(2, place_BmL))


def prepare_attention(
    spec: AttentionSpec | None,
    *,
    start: int,
    queries: int,
    keys: int,
    device: torch.device,
    columns: Tensor | None = None,
) -> PreparedAttention:
    """Turn a pattern into kernel arguments, once per forward.

    Args:
        spec: the pattern over all `keys` positions; None: everybody sees everybody.
        start: column of the first query among the keys.
        queries: number of query rows.
        keys: number of key columns.
        device: where the mask is needed, if one is.
        columns: int64 `[B, queries]`, the queries' columns where they do not follow `start`.

    Raises:
        ValueError: the pattern lacks the ids that its kind needs, or limits the distance between two streams.
    """
    if spec is None:
        return PreparedAttention()
    whole = spec.document_BL is None and spec.window is None and spec.ahead == 0
    if spec.kind == "causal" and whole and columns is None:
        if queries == keys:
            return PreparedAttention(causal=True)
        if queries == 1 and start == keys - 1:
            return PreparedAttention()
    key_L = torch.arange(keys, device=device)
    if spec.kind in _SPARSE and columns is None and queries == keys > TILE:
        seen = partial(who_sees, spec, key_L=key_L, start=start)
        if device.type == "cpu":
            return PreparedAttention(tiles=tiles_of(seen, key_L))
        if device.type == "cuda" and spec.kind == "two_stream":  # which is compiled: a matter for long runs
            return PreparedAttention(blocks=block_mask(seen, key_L, rule_of(spec)))
    if _packs(spec) and columns is None and queries == keys > TILE:
        assert spec.document_BL is not None
        runs = runs_of(spec.document_BL) if device.type == "cpu" else None
        if runs is not None:
            return PreparedAttention(causal=spec.kind == "causal", runs=runs)
        if device.type == "cuda":
            seen = partial(who_sees, spec, key_L=key_L, start=start)
            return PreparedAttention(blocks=block_mask(seen, key_L, rule_of(spec)))
    query_BL = key_L[start : start + queries][None] if columns is None else columns
    allowed = who_sees(spec, query_BL, key_L, start)
    return PreparedAttention(mask=None if allowed is None else allowed.unsqueeze(1))


def _packs(spec: AttentionSpec) -> bool:
    """Whether rows may hold several documents, each of which sees all of itself, or all before."""
    plain = spec.kind in ("bidirectional", "causal") and spec.window is None and spec.ahead == 0
    return plain and spec.packed and spec.document_BL is not None


def attend(q_BHLK: Tensor, k_BGLK: Tensor, v_BGLK: Tensor, how: PreparedAttention, *, eager: bool = False) -> Tensor:
    """Attention of H query heads over G shared key/value heads; returns `[B, H, L, K]`."""
    if how.runs:
        inside = PreparedAttention(causal=how.causal)
        return attend_by_documents(q_BHLK, k_BGLK, v_BGLK, how.runs, partial(attend, how=inside, eager=eager))
    if how.tiles:
        return attend_by_tiles(q_BHLK, k_BGLK, v_BGLK, how.tiles, _of_tile_eagerly if eager else _of_tile)
    if how.blocks is not None and not eager:
        return attend_by_flex(q_BHLK, k_BGLK, v_BGLK, how.blocks)
    if eager:
        return _attend_eagerly(q_BHLK, k_BGLK, v_BGLK, how)
    if how.mask is None and not how.causal and is_for_tiles(q_BHLK, k_BGLK, v_BGLK):
        return attend_in_tiles(q_BHLK, k_BGLK, v_BGLK)
    grouped = q_BHLK.shape[1] != k_BGLK.shape[1]
    return F.scaled_dot_product_attention(
        q_BHLK, k_BGLK, v_BGLK, attn_mask=how.mask, is_causal=how.causal, enable_gqa=grouped
    )


def _of_tile(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return attend(q, k, v, PreparedAttention(mask))


def _of_tile_eagerly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return attend(q, k, v, PreparedAttention(mask), eager=True)


def _attend_eagerly(q_BHLK: Tensor, k_BGLK: Tensor, v_BGLK: Tensor, how: PreparedAttention) -> Tensor:
    """The definition, written out: softmax in float32."""
    groups = q_BHLK.shape[1] // k_BGLK.shape[1]
    k_BHLK, v_BHLK = k_BGLK.repeat_interleave(groups, 1), v_BGLK.repeat_interleave(groups, 1)
    score = (q_BHLK @ k_BHLK.transpose(-1, -2)).float() * q_BHLK.shape[-1] ** -0.5
    mask = how.mask
    if how.blocks is not None:
        mask = spelt_out(how.blocks.mask_mod, *score.shape[::3], device=score.device)
    if how.causal:
        mask = torch.ones(score.shape[-2:], dtype=torch.bool, device=score.device).tril()
    if mask is not None:
        score = score.masked_fill(~mask, float("-inf"))
    return score.softmax(-1).to(v_BHLK.dtype) @ v_BHLK
