"""Patterns of attention, as ids of documents, blocks and streams.

Constructors of `AttentionSpec`, and `allowed`, which spells a pattern out for checks and small inputs. How a network
turns a pattern into a kernel is not known here.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from unmask.types import AttentionSpec


def bidirectional(*, window: int | None = None) -> AttentionSpec:
    """Everybody sees everybody, at most `window` positions away."""
    return AttentionSpec(window=window)


def causal(document_BL: Int[Tensor, "B L"] | None = None, *, window: int | None = None) -> AttentionSpec:
    """A token sees itself and what is before it, inside its document."""
    return AttentionSpec("causal", document_BL=document_BL, window=window)


def padded(valid_BL: Bool[Tensor, "B L"]) -> AttentionSpec:
    """Everybody sees every position that is no padding. `valid_BL`: bool, False at padding, on any side."""
    return AttentionSpec(document_BL=valid_BL.long() - 1)


def documents(document_BL: Int[Tensor, "B L"]) -> AttentionSpec:
    """Everybody sees their own document. `document_BL`: int64, -1 at padding."""
    return AttentionSpec(document_BL=document_BL)


def block_causal(block_BL: Int[Tensor, "B L"], document_BL: Int[Tensor, "B L"] | None = None) -> AttentionSpec:
    """A token sees its own block and all earlier ones, inside its document."""
    return AttentionSpec("block_causal", document_BL=document_BL, block_BL=block_BL)


def two_stream(block_BL: Int[Tensor, "B L"], document_BL: Int[Tensor, "B L"] | None = None) -> AttentionSpec:
    """The pattern of rows fed as noisy tokens followed by the same tokens clean.

    A noisy token sees its own noisy block and the clean blocks before it; a clean one its own clean block and those
    before it; nobody clean sees anything noisy.

    Args:
        block_BL: int64 `[B, L]`; block of each token, of one stream.
        document_BL: int64 `[B, L]`, -1 at padding; of one stream.

    Returns:
        a pattern over `[B, 2 L]`.

    Source: BD3-LM (Arriola et al. 2025), section 3.1 and appendix B.6.
    """
    clean_BL = torch.ones_like(block_BL)
    return AttentionSpec(
        "two_stream",
        document_BL=None if document_BL is None else torch.cat([document_BL, document_BL], dim=1),
        block_BL=torch.cat([block_BL, block_BL], dim=1),
        stream_BL=torch.cat([torch.zeros_like(block_BL), clean_BL], dim=1),
    )


def block_ids(
    positions_BL: Int[Tensor, "B L"], block_size: int, *, start_B: Int[Tensor, " B"] | None = None
) -> Int64[Tensor, "B L"]:
    """The block that each position belongs to.

    Args:
        positions_BL: int64 positions inside the document.
        block_size: tokens per block, at least 1.
        start_B: int64; position where block 0 begins (the end of the prompt, for one); None: 0. Earlier positions
            lie in blocks -1, -2, ...

    Raises:
        ValueError: `block_size` is not positive.
    """
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; a block holds at least 1 token")
    first_B1 = 0 if start_B is None else start_B[:, None]
    return torch.div(positions_BL - first_B1, block_size, rounding_mode="floor").long()


def document_positions(document_BL: Int[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
    """Positions that restart at 0 wherever the document (or padding) changes along a row."""
    index_BL = torch.arange(document_BL.shape[1], device=document_BL.device).expand_as(document_BL)
    changes_BL = torch.ones_like(document_BL, dtype=torch.bool)
    changes_BL[:, 1:] = document_BL[:, 1:] != document_BL[:, :-1]
    return index_BL - (index_BL * changes_BL).cummax(dim=1).values


def allowed(spec: AttentionSpec, batch: int, length: int) -> Bool[Tensor, "{batch} {length} {length}"]:
    """Spell a pattern out: `[b, q, k]` is True where query q of row b sees key k. For checks and small inputs.

    Padding is seen by nobody; a padding query sees every real key of its row (its output is not used); a query that
    would see nothing sees itself, so that no softmax is empty.

    Args:
        spec: the pattern.
        batch: rows.
        length: positions, both streams counted.

    Raises:
        ValueError: the pattern lacks the ids that its kind needs, or limits the distance between two streams.
    """
    device = next((ids.device for ids in (spec.document_BL, spec.block_BL) if ids is not None), None)
    here = torch.arange(length, device=device)
    seen_BQK = _inside_document(spec, here).expand(batch, length, length)
    if spec.window is not None:
        if spec.kind == "two_stream":
            raise ValueError("a window has no meaning between two streams; leave window out of a two_stream pattern")
        seen_BQK = seen_BQK & ((here[:, None] - here).abs() <= spec.window)
    if spec.document_BL is not None:
        real_BL = spec.document_BL >= 0
        same_BQK = spec.document_BL[:, :, None] == spec.document_BL[:, None, :]
        seen_BQK = torch.where(real_BL[:, :, None], seen_BQK & same_BQK, real_BL[:, None, :])
    alone_BQ = ~seen_BQK.any(dim=2)
    return seen_BQK | torch.diag_embed(alone_BQ)


def _inside_document(spec: AttentionSpec, here: Tensor) -> Tensor:
    if spec.kind == "bidirectional":
        return torch.ones_like(here[:, None] == here)[None]
    if spec.kind == "causal":
        return (here[:, None] >= here)[None]
    streams = spec.kind in ("two_stream", "leave_one_out")
    if spec.block_BL is None or (streams and spec.stream_BL is None):
        raise ValueError(f"a {spec.kind} pattern needs block_BL" + (", stream_BL" * streams))
    query_block, key_block = spec.block_BL[:, :, None], spec.block_BL[:, None, :]
    if spec.kind == "branches":
        return (key_block == 0).expand(-1, key_block.shape[2], -1) | (query_block == key_block)
    if spec.stream_BL is None or spec.kind == "block_causal":
        return query_block >= key_block
    query_clean, key_clean = spec.stream_BL[:, :, None] == 1, spec.stream_BL[:, None, :] == 1
    if spec.kind == "leave_one_out":
        others = query_clean & ~key_clean & (query_block != key_block)
        return others | (query_clean & key_clean & (query_block == key_block)) | (~query_clean & ~key_clean)
    own_block = (query_block == key_block) & (spec.stream_BL[:, :, None] == spec.stream_BL[:, None, :])
    return own_block | (key_clean & (query_block > key_block))
