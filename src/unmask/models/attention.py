"""Who sees whom, in the form that a kernel takes, and the kernels: what heads of queries see of keys and values.

A pattern (`AttentionSpec`) is turned once per forward into what the kernel needs; where everybody sees everybody, no
mask exists at all. This file knows no weights: those of a layer's attention are in `dense.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.models.cpu_attention import attend_in_tiles, is_for_tiles
from unmask.models.documents import Runs, attend_by_documents, runs_of
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
        seen = partial(_seen, spec, key_L=key_L, start=start)
        if device.type == "cpu":
            return PreparedAttention(tiles=tiles_of(seen, key_L))
        if device.type == "cuda" and spec.kind == "two_stream":  # which is compiled: a matter for long runs
            return PreparedAttention(blocks=block_mask(seen, key_L, _rule(spec)))
    if _packs(spec) and columns is None and queries == keys > TILE:
        assert spec.document_BL is not None
        runs = runs_of(spec.document_BL) if device.type == "cpu" else None
        if runs is not None:
            return PreparedAttention(causal=spec.kind == "causal", runs=runs)
        if device.type == "cuda":
            seen = partial(_seen, spec, key_L=key_L, start=start)
            return PreparedAttention(blocks=block_mask(seen, key_L, _rule(spec)))
    query_BL = key_L[start : start + queries][None] if columns is None else columns
    allowed = _seen(spec, query_BL, key_L, start)
    return PreparedAttention(mask=None if allowed is None else allowed.unsqueeze(1))


def _packs(spec: AttentionSpec) -> bool:
    """Whether rows may hold several documents, each of which sees all of itself, or all before."""
    plain = spec.kind in ("bidirectional", "causal") and spec.window is None and spec.ahead == 0
    return plain and spec.packed and spec.document_BL is not None


def _seen(spec: AttentionSpec, query_BL: Tensor, key_L: Tensor, start: int) -> Tensor | None:
    """Who sees whom, `[1 or B, queries, keys]`, and nobody nothing; None: all see all."""
    allowed = _pattern(spec, query_BL, key_L)
    if spec.document_BL is not None:
        allowed = _documents(spec, allowed, query_BL)
    return None if allowed is None else _nobody_blind(allowed, start)


def _pattern(spec: AttentionSpec, query_BL: Tensor, key_L: Tensor) -> Tensor | None:
    """What the kind and the window allow, `[1 or B, queries, keys]`; None: everything."""
    allowed, query_BL1 = None, query_BL[:, :, None]
    if spec.kind == "causal":
        allowed = query_BL1 >= key_L
        if spec.ahead > 0:
            allowed = allowed | (_drawn(query_BL1, key_L, spec.ahead_seed) < spec.ahead)
    elif spec.kind != "bidirectional":
        allowed = _by_block(spec, query_BL)
    if spec.window is not None:
        if spec.kind == "two_stream":
            raise ValueError("a window has no meaning between two streams")
        near = (query_BL1 - key_L).abs() <= spec.window
        allowed = near if allowed is None else allowed & near
    return allowed


def _drawn(query_BL1: Tensor, key_L: Tensor, seed: int) -> Tensor:
    """One number in [0, 1) per pair, the same on every device: the pair, mixed as MurmurHash3 ends (Appleby 2011)."""
    low = 2**32 - 1
    mixed = (query_BL1 * 0x9E3779B1 + key_L * 0x85EBCA77 + (seed % 2**31) * 0xC2B2AE3D) & low
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        # in halves: the product of two numbers of 32 bits does not fit into 63
        mixed = mixed ^ (mixed >> shift)
        mixed = (mixed * (factor & 0xFFFF) + ((mixed * (factor >> 16) & 0xFFFF) << 16)) & low
    return (mixed ^ (mixed >> 16)) / 2**32


def _of_queries(ids_BL: Tensor, query_BL: Tensor) -> Tensor:
    """The ids of the queries' columns, `[B, queries, 1]`."""
    if len(query_BL) == 1:
        return ids_BL[:, query_BL[0], None]
    return ids_BL.expand(len(query_BL), -1).gather(1, query_BL)[:, :, None]


def _by_block(spec: AttentionSpec, query_BL: Tensor) -> Tensor:
    """Block-causal, branches, the two streams of block diffusion (BD3-LM, arXiv 2503.09573, appendix B), or shadows."""
    streams = spec.kind in ("two_stream", "leave_one_out")
    if spec.block_BL is None or (streams and spec.stream_BL is None):
        raise ValueError(f"a {spec.kind} pattern needs block_BL" + (", stream_BL" * streams))
    query, key = _of_queries(spec.block_BL, query_BL), spec.block_BL[:, None, :]
    if spec.kind == "block_causal":
        return query >= key
    if spec.kind == "branches":
        return (key == 0) | (query == key)
    assert spec.stream_BL is not None
    of_query, of_key = _of_queries(spec.stream_BL, query_BL), spec.stream_BL[:, None, :]
    clean_query, clean_key = of_query == 1, of_key == 1
    if spec.kind == "leave_one_out":
        return (~clean_query & ~clean_key) | (clean_query & ((query == key) == clean_key))
    return ((query == key) & (of_query == of_key)) | ((query > key) & clean_key)


def _rule(spec: AttentionSpec) -> Callable[..., Tensor]:
    """Whether a query sees a key of its row: `(row, head, query, key) -> bool`, as flex_attention asks."""
    block_BL, stream_BL, document_BL = spec.block_BL, spec.stream_BL, spec.document_BL
    window, packed, everywhere = spec.window, spec.packed, spec.kind == "bidirectional"
    streams = stream_BL if spec.kind == "two_stream" else None

    def of(ids_BL: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return ids_BL[row, column] if ids_BL.shape[0] > 1 else ids_BL[0, column]

    def rule(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        del head
        own, other = (query, key) if block_BL is None else (of(block_BL, row, query), of(block_BL, row, key))
        seen = own >= other
        if everywhere:
            seen = seen | (own < other)
        if streams is not None:
            of_key = of(streams, row, key)
            seen = ((own == other) & (of(streams, row, query) == of_key)) | ((own > other) & (of_key == 1))
        if window is not None:
            seen = seen & ((query - key).abs() <= window)
        if document_BL is not None:
            asking, asked = of(document_BL, row, query), of(document_BL, row, key)
            seen = seen & (asked >= 0)
            if packed:
                seen = seen & ((asking == asked) | (asking < 0))
        return seen

    return rule


def _documents(spec: AttentionSpec, allowed: Tensor | None, query_BL: Tensor) -> Tensor:
    """Hide padding from all and, in packed rows, each document from the others."""
    assert spec.document_BL is not None
    key = spec.document_BL[:, None, :]
    visible = key >= 0
    if spec.packed:
        query = _of_queries(spec.document_BL, query_BL)
        visible = visible & ((query == key) | (query < 0))
    return visible if allowed is None else allowed & visible


def _nobody_blind(allowed: Tensor, start: int) -> Tensor:
    """A query that may see nothing (padding in an empty row) sees column `start`: no kernel then divides by zero."""
    blind = ~allowed.any(-1, keepdim=True)
    first = torch.arange(allowed.shape[-1], device=allowed.device) == start
    return allowed | (blind & first)


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
