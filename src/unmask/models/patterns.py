"""Who sees whom: an `AttentionSpec` spelt out, for some queries as a mask, and as a rule for one pair.

The definition it must equal is `diffusion/blocks.py`. Knows no kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unmask.types import AttentionSpec


def who_sees(spec: AttentionSpec, query_BL: Tensor, key_L: Tensor, start: int) -> Tensor | None:
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


def rule_of(spec: AttentionSpec) -> Callable[..., Tensor]:
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
