"""Pairs counted from sizes against pairs counted one by one."""

from __future__ import annotations

import pytest
import torch

from unmask.diffusion.blocks import allowed, block_causal, block_ids, causal, document_positions, documents, two_stream
from unmask.diffusion.pairs import attended_pairs
from unmask.types import AttentionSpec

LENGTH = 40
DOCUMENTS = torch.tensor([[0] * 11 + [1] * 3 + [2] * 20 + [-1] * 6, [0] * 40, [-1] * 4 + [0] * 30 + [4] * 6])
BLOCKS = block_ids(document_positions(DOCUMENTS), 4)
VIEWS = AttentionSpec(
    "two_stream",
    document_BL=DOCUMENTS.repeat(1, 3),
    block_BL=BLOCKS.repeat(1, 3),
    stream_BL=torch.tensor([0, 2, 1]).repeat_interleave(LENGTH).expand(3, -1),
)
PATTERNS = {
    "all": AttentionSpec(),
    "documents": documents(DOCUMENTS),
    "causal": causal(),
    "causal documents": causal(DOCUMENTS),
    "a window": AttentionSpec(document_BL=DOCUMENTS, window=5),
    "a causal window": causal(DOCUMENTS, window=2),
    "blocks": block_causal(BLOCKS, DOCUMENTS),
    "blocks from the answer on": block_causal(
        block_ids(torch.arange(LENGTH).expand(3, -1), 8, start_B=torch.tensor([3, 9, 17]))
    ),
    "two streams": two_stream(BLOCKS, DOCUMENTS),
    "two streams, one document": two_stream(block_ids(torch.arange(LENGTH).expand(3, -1), 6)),
    "two views": VIEWS,
    "branches": AttentionSpec("branches", block_BL=(torch.arange(LENGTH) // 9).expand(3, -1)),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_pairs_are_those_that_see_each_other(name: str) -> None:
    spec = PATTERNS[name]
    length = LENGTH if spec.block_BL is None else spec.block_BL.shape[1]
    seen_BQK = allowed(spec, 3, length)
    if spec.document_BL is not None:
        seen_BQK = seen_BQK & (spec.document_BL >= 0)[:, :, None]
    assert attended_pairs(spec, 3, length) == int(seen_BQK.sum())


def test_no_pattern_is_the_square() -> None:
    assert attended_pairs(None, 3, LENGTH) == 3 * LENGTH**2


def test_pairs_drawn_ahead_count_as_expected() -> None:
    half = AttentionSpec("causal", ahead=0.5)
    assert attended_pairs(half, 1, LENGTH) == LENGTH * (LENGTH + 1) // 2 + LENGTH * (LENGTH - 1) // 4
