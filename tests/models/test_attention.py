"""Attention patterns against a loop over pairs of positions, and what heads see against a product for each."""

from __future__ import annotations

import pytest
import torch

from unmask.diffusion import blocks
from unmask.models.attention import PreparedAttention, attend, prepare_attention
from unmask.types import AttentionSpec

LENGTH = 8
DOCUMENT = torch.tensor([[0, 0, 0, 1, 1, 2, 2, -1], [-1, -1, 0, 0, 0, 0, 0, 0]])
BLOCK = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2], [-1, 0, 0, 1, 1, 2, 2, 2]])
STREAM = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]] * 2)
HALVES = torch.tensor([[0, 0, 1, 1] * 2, [0, 1, 1, 2] * 2])
SPECS = {
    "everything": AttentionSpec(),
    "window": AttentionSpec(window=2),
    "window of 0": AttentionSpec(window=0),
    "padding": AttentionSpec(document_BL=DOCUMENT.clamp(max=0), packed=False),
    "documents": AttentionSpec(document_BL=DOCUMENT),
    "documents in a window": AttentionSpec(document_BL=DOCUMENT, window=1),
    "causal": AttentionSpec("causal"),
    "causal in a window": AttentionSpec("causal", window=3),
    "causal documents": AttentionSpec("causal", document_BL=DOCUMENT),
    "blocks": AttentionSpec("block_causal", block_BL=BLOCK),
    "blocks of documents": AttentionSpec("block_causal", block_BL=BLOCK, document_BL=DOCUMENT),
    "two streams": AttentionSpec("two_stream", block_BL=HALVES, stream_BL=STREAM),
    "two streams, padded": AttentionSpec(
        "two_stream", block_BL=HALVES, stream_BL=STREAM, document_BL=torch.tensor([[0] * 8, [0, 0, 0, -1] * 2])
    ),
}


def sees(spec: AttentionSpec, row: int, q: int, k: int) -> bool:
    """The sentences of `AttentionSpec`, one pair at a time."""
    if spec.document_BL is not None:
        of_q, of_k = int(spec.document_BL[row, q]), int(spec.document_BL[row, k])
        if of_k == -1 or of_q != of_k:
            return False
    if spec.window is not None and abs(q - k) > spec.window:
        return False
    if spec.kind == "bidirectional":
        return True
    if spec.kind == "causal":
        return k <= q
    block_q, block_k = int(spec.block_BL[row, q]), int(spec.block_BL[row, k])
    if spec.kind == "block_causal":
        return block_k <= block_q
    noisy_q, noisy_k = spec.stream_BL[row, q] == 0, spec.stream_BL[row, k] == 0
    if noisy_q:
        return block_k == block_q if noisy_k else block_k < block_q
    return not noisy_k and block_k <= block_q


def pairs(how: PreparedAttention, queries: int, keys: int) -> torch.Tensor:
    """bool `[2, queries, keys]`."""
    if how.causal:
        assert how.mask is None and queries == keys
        return torch.ones(queries, keys, dtype=torch.bool).tril().expand(2, -1, -1)
    if how.mask is None:
        return torch.ones(2, queries, keys, dtype=torch.bool)
    assert how.mask.dtype == torch.bool and how.mask.ndim == 4
    return how.mask.expand(2, 1, queries, keys)[:, 0]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("start, queries", [(0, LENGTH), (3, 2), (7, 1), (0, 1)])
def test_a_pattern_is_what_its_sentences_say(name: str, start: int, queries: int):
    spec = SPECS[name]
    how = prepare_attention(spec, start=start, queries=queries, keys=LENGTH, device=torch.device("cpu"))
    found = pairs(how, queries, LENGTH)
    assert found.any(-1).all(), "a query that sees nothing makes NaN"
    for row in range(2):
        for q in range(start, start + queries):
            if spec.document_BL is not None and spec.document_BL[row, q] == -1:
                continue
            assert found[row, q - start].tolist() == [sees(spec, row, q, k) for k in range(LENGTH)], (row, q)


@pytest.mark.parametrize("name", SPECS)
def test_it_is_the_pattern_that_the_mathematics_spells_out(name: str):
    spec = SPECS[name]
    found = pairs(
        prepare_attention(spec, start=0, queries=LENGTH, keys=LENGTH, device=torch.device("cpu")), LENGTH, LENGTH
    )
    real_BL = torch.ones(2, LENGTH, dtype=torch.bool) if spec.document_BL is None else spec.document_BL >= 0
    assert torch.equal(found[real_BL], blocks.allowed(spec, 2, LENGTH)[real_BL])


@pytest.mark.parametrize("name", ["everything", "causal"])
def test_no_mask_is_built_where_none_is_needed(name: str):
    how = prepare_attention(SPECS[name], start=0, queries=LENGTH, keys=LENGTH, device=torch.device("cpu"))
    assert how.mask is None and how.causal == (name == "causal")
    assert prepare_attention(None, start=0, queries=1, keys=1, device=torch.device("cpu")).mask is None


def test_padding_alone_costs_one_row_of_mask():
    how = prepare_attention(SPECS["padding"], start=0, queries=LENGTH, keys=LENGTH, device=torch.device("cpu"))
    assert how.mask.shape == (2, 1, 1, LENGTH)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["bidirectional", "causal"])
def test_a_row_of_padding_alone_gives_no_nan_and_no_nan_gradient(eager: bool, packed: bool, kind: str):
    document_BL = torch.tensor([[-1] * LENGTH, [0] * LENGTH])
    spec = AttentionSpec(kind, document_BL=document_BL, packed=packed)
    how = prepare_attention(spec, start=0, queries=LENGTH, keys=LENGTH, device=torch.device("cpu"))
    q, k, v = (torch.randn(2, 2, LENGTH, 4, requires_grad=True) for _ in range(3))
    out = attend(q, k, v, how, eager=eager)
    out.sum().backward()
    assert out.isfinite().all() and all(tensor.grad.isfinite().all() for tensor in (q, k, v))


def test_a_window_between_two_streams_is_refused():
    spec = AttentionSpec("two_stream", block_BL=HALVES, stream_BL=STREAM, window=2)
    with pytest.raises(ValueError, match="window has no meaning between two streams"):
        prepare_attention(spec, start=0, queries=LENGTH, keys=LENGTH, device=torch.device("cpu"))


@pytest.mark.parametrize("kind", ["block_causal", "two_stream"])
def test_a_kind_without_its_ids_is_refused(kind: str):
    with pytest.raises(ValueError, match=f"{kind} pattern needs block_BL"):
        prepare_attention(AttentionSpec(kind), start=0, queries=2, keys=2, device=torch.device("cpu"))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("eager", [False, True])
def test_heads_that_share_keys_attend_as_if_each_had_its_own(groups: int, eager: bool):
    q, k, v = torch.randn(2, 4, 6, 8), torch.randn(2, groups, 6, 8), torch.randn(2, groups, 6, 8)
    mask = torch.rand(2, 1, 6, 6) < 0.7
    mask[..., 0] = True
    out = attend(q, k, v, PreparedAttention(mask), eager=eager)
    for head in range(4):
        own = head * groups // 4
        weight = (q[:, head] @ k[:, own].mT / 8**0.5).masked_fill(~mask[:, 0], -1e9).softmax(-1)
        torch.testing.assert_close(out[:, head], weight @ v[:, own])
