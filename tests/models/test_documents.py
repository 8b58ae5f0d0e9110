"""Packed documents, each attended to by itself, against one dense mask over the whole row."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from tests.models.tiny import build, tokens
from unmask.diffusion.blocks import allowed, document_positions
from unmask.models import attention, tiled
from unmask.models.attention import PreparedAttention, attend, prepare_attention
from unmask.models.documents import runs_of
from unmask.models.patterns import rule_of, who_sees
from unmask.registry import FAMILIES
from unmask.types import AttentionSpec

LENGTH = 300
CPU = torch.device("cpu")
DOCUMENTS = {
    "ragged": torch.tensor([[0] * 100 + [1] * 7 + [2] * 190 + [-1] * 3, [0] * 150 + [1] * 149 + [2]]),
    "alike": torch.tensor([[0] * 10 + [1] * 290]).expand(2, -1),
    "padded in between": torch.tensor([[-1] * 5 + [3] * 95 + [-1] * 50 + [1] * 150, [7] * 300]),
    "one each": torch.zeros(2, LENGTH, dtype=torch.int64),
}


def prepared(spec: AttentionSpec) -> PreparedAttention:
    return prepare_attention(spec, start=0, queries=LENGTH, keys=LENGTH, device=CPU)


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("kind", ["bidirectional", "causal"])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("eager", [False, True])
def test_documents_equal_a_dense_mask_forward_and_backward(name: str, kind: str, heads: tuple[int, int], eager: bool):
    spec, generator = AttentionSpec(kind, document_BL=DOCUMENTS[name]), torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, n, LENGTH, 8, generator=generator, requires_grad=True) for n in (heads[0], *heads[1:] * 2)
    )
    how = prepared(spec)
    assert how.mask is None and how.runs and not how.can_part
    shown = (DOCUMENTS[name] >= 0)[:, None, :, None]
    weight = torch.randn(q.shape, generator=generator) * shown
    ours = attend(q, k, v, how, eager=eager) * shown
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed(spec, 2, LENGTH)[:, None], enable_gqa=True)
    torch.testing.assert_close(ours, theirs * shown, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad((ours * weight).sum(), (q, k, v))
    wanted = torch.autograd.grad((theirs * weight).sum(), (q, k, v))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_runs_are_the_lengths_of_documents():
    assert runs_of(DOCUMENTS["ragged"]) == ((100, 7, 190, 3), (150, 149, 1))
    assert runs_of(DOCUMENTS["alike"]) == ((10, 290),)
    assert runs_of(torch.tensor([[-1, 4, 4, -1, -1]])) == ((1, 2, 2),)
    assert runs_of(torch.tensor([[0, 1, 0]])) is None


def test_a_document_in_two_pieces_sees_all_of_itself():
    torn = torch.tensor([[0] * 100 + [1] * 100 + [0] * 100])
    how = prepared(AttentionSpec(document_BL=torn))
    assert not how.runs
    assert torch.equal(how.mask[:, 0], allowed(AttentionSpec(document_BL=torn), 1, LENGTH))


@pytest.mark.parametrize(
    "spec",
    [
        AttentionSpec(document_BL=DOCUMENTS["ragged"], window=9),
        AttentionSpec("causal", document_BL=DOCUMENTS["ragged"], ahead=0.5),
        AttentionSpec(document_BL=DOCUMENTS["padded in between"], packed=False),
    ],
    ids=["window", "opening", "padding"],
)
def test_other_patterns_keep_their_mask(spec: AttentionSpec):
    how = prepared(spec)
    assert how.mask is not None and not how.runs


def test_a_cache_keeps_its_mask():
    spec = AttentionSpec(document_BL=DOCUMENTS["ragged"])
    how = prepare_attention(spec, start=100, queries=200, keys=LENGTH, device=CPU)
    assert how.mask is not None and not how.runs


@pytest.mark.parametrize("family", ["llada", "dream", "qwen2"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_network_learns_the_same_from_documents(tmp_path, monkeypatch, family: str, recompute: bool):
    model = build(tmp_path, FAMILIES.get(family)).train()
    if recompute:
        model.gradient_checkpointing_enable()
    document_BL = torch.tensor([[0] * 9 + [1] * 16 + [2] * 15, [0] * 30 + [1] * 6 + [-1] * 4])
    spec = AttentionSpec("causal" if family == "qwen2" else "bidirectional", document_BL=document_BL)
    ids, at = tokens(2, 40), torch.arange(1, 76, 3)

    def learned() -> list[torch.Tensor]:
        model.zero_grad()
        positions = document_positions(document_BL)
        model(ids, attention=spec, positions=positions, logits_at=at, targets=at).nll.sum().backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    dense = learned()
    monkeypatch.setattr(attention, "TILE", 7)
    for one, other in zip(learned(), dense, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_mixed_precision_goes_through_the_backward_pass_too():
    q, k, v = (torch.randn(2, 2, LENGTH, 8, requires_grad=True) for _ in range(3))
    how = prepared(AttentionSpec(document_BL=DOCUMENTS["ragged"]))
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(q, k, v.bfloat16(), how)
    out.sum().backward()
    assert out.dtype == torch.bfloat16 and q.grad.dtype == torch.float32 and q.grad.isfinite().all()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("kind", ["bidirectional", "causal"])
def test_the_block_mask_of_a_gpu_is_the_same_pattern(name: str, kind: str):
    from torch.nn.attention.flex_attention import flex_attention

    spec = AttentionSpec(kind, document_BL=DOCUMENTS[name])
    rule, mask = rule_of(spec), allowed(spec, 2, LENGTH)[:, None]
    real_BL = DOCUMENTS[name] >= 0
    assert torch.equal(tiled.spelt_out(rule, 2, LENGTH, device=CPU)[:, 0][real_BL], mask[:, 0][real_BL])
    columns = torch.arange(LENGTH)
    blocks = tiled.block_mask(partial(who_sees, spec, key_L=columns, start=0), columns, rule)
    q, k, v = (torch.randn(2, heads, LENGTH, 16) for heads in (4, 2, 2))
    found = flex_attention(q, k, v, block_mask=blocks, enable_gqa=True)
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    shown = real_BL[:, None, :, None]
    torch.testing.assert_close(found * shown, wanted * shown, atol=1e-5, rtol=1e-5)
