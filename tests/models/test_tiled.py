"""Tiles against one dense mask: the same attention and gradients, over a fraction of the pairs."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from tests.models.tiny import build, tokens
from unmask.diffusion.blocks import allowed, block_causal, block_ids, document_positions, two_stream
from unmask.models import attention, tiled
from unmask.models.attention import PreparedAttention, attend, prepare_attention
from unmask.models.patterns import rule_of, who_sees
from unmask.registry import FAMILIES
from unmask.types import AttentionSpec

LENGTH = 300
CPU = torch.device("cpu")


def patterns() -> dict[str, AttentionSpec]:
    document_BL = torch.tensor([[0] * 100 + [1] * 7 + [2] * 190 + [-1] * 3, [0] * 300])
    even_BL = block_ids(torch.arange(LENGTH)[None], 16)
    packed_BL = block_ids(document_positions(document_BL), 5)
    return {
        "even": two_stream(even_BL),
        "packed": two_stream(packed_BL, document_BL),
        "blocks": block_causal(packed_BL, document_BL),
        "blocks in a window": AttentionSpec("block_causal", block_BL=even_BL, window=20),
        "two views": AttentionSpec(
            "two_stream",
            block_BL=even_BL.repeat(1, 3),
            stream_BL=torch.tensor([[0, 2, 1]]).repeat_interleave(LENGTH, 1),
        ),
        "one token": two_stream(block_ids(torch.arange(LENGTH)[None], 1)),
    }


def pairs(how: PreparedAttention) -> int:
    """Pairs of query and key that are computed."""
    sizes = ((tile.rows, tile.keys) for tile in how.tiles)
    count = lambda part: part.stop - part.start if isinstance(part, slice) else len(part)  # noqa: E731
    return sum(count(rows) * count(keys) for rows, keys in sizes)


@pytest.mark.parametrize("name", patterns())
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("eager", [False, True])
def test_tiles_equal_a_dense_mask_forward_and_backward(name: str, heads: tuple[int, int], eager: bool):
    spec, generator = patterns()[name], torch.Generator().manual_seed(0)
    width = spec.block_BL.shape[1]
    q, k, v = (torch.randn(2, n, width, 8, generator=generator, requires_grad=True) for n in (heads[0], *heads[1:] * 2))
    how = prepare_attention(spec, start=0, queries=width, keys=width, device=CPU)
    assert how.mask is None and len(how.tiles) == -(-width // tiled.TILE)
    mask = allowed(spec, 2, width)[:, None]
    real_BL = torch.ones(2, width, dtype=torch.bool) if spec.document_BL is None else spec.document_BL >= 0
    shown = real_BL[:, None, :, None]
    weight = torch.randn(q.shape, generator=generator) * shown
    ours = attend(q, k, v, how, eager=eager) * shown
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True) * shown
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad((ours * weight).sum(), (q, k, v))
    wanted = torch.autograd.grad((theirs * weight).sum(), (q, k, v))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("length", "most"), [(1024, 0.33), (2048, 0.29)])
def test_about_a_quarter_of_the_square_is_computed(length: int, most: float):
    spec = two_stream(block_ids(torch.arange(length)[None], 4))
    how = prepare_attention(spec, start=0, queries=2 * length, keys=2 * length, device=CPU)
    assert 0.25 < pairs(how) / (2 * length) ** 2 < most
    assert max(tile.mask.numel() for tile in how.tiles) <= tiled.TILE * (length + tiled.TILE)


@pytest.mark.parametrize("family", ["llada", "dream", "llada2"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_network_learns_the_same_from_tiles(tmp_path, monkeypatch, family: str, recompute: bool):
    model = build(tmp_path, FAMILIES.get(family)).train()
    if recompute:
        model.gradient_checkpointing_enable()
    streams, at = tokens(2, 2 * 20), torch.arange(0, 40, 3)
    spec = two_stream(block_ids(torch.arange(20)[None].expand(2, 20), 4))
    positions = torch.arange(20).repeat(2).expand(2, 40)

    def learned() -> list[torch.Tensor]:
        model.zero_grad()
        model(streams, attention=spec, positions=positions, logits_at=at, targets=at).nll.sum().backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    dense = learned()
    for module in (attention, tiled):
        monkeypatch.setattr(module, "TILE", 7)
    for one, other in zip(learned(), dense, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_mixed_precision_goes_through_the_backward_pass_too():
    spec = patterns()["even"]
    width = spec.block_BL.shape[1]
    q, k, v = (torch.randn(1, 2, width, 8, requires_grad=True) for _ in range(3))
    how = prepare_attention(spec, start=0, queries=width, keys=width, device=CPU)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(q, k, v.bfloat16(), how)
    out.sum().backward()
    assert out.dtype == torch.bfloat16 and q.grad.dtype == torch.float32 and q.grad.isfinite().all()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", patterns())
def test_the_block_mask_of_a_gpu_is_the_same_pattern(name: str):
    """flex_attention runs forward on a processor too, uncompiled; its rule, pair by pair, spells the pattern out."""
    from torch.nn.attention.flex_attention import flex_attention

    spec = patterns()[name]
    width = spec.block_BL.shape[1]
    columns, rows = torch.arange(width), 2
    real_BL = torch.ones(2, width, dtype=torch.bool) if spec.document_BL is None else spec.document_BL >= 0
    mask = allowed(spec, rows, width)[:, None]
    rule = rule_of(spec)
    assert torch.equal(tiled.spelt_out(rule, rows, width, device=CPU)[:, 0][real_BL], mask[:, 0][real_BL])
    blocks = tiled.block_mask(partial(who_sees, spec, key_L=columns, start=0), columns, rule)
    q, k, v = (torch.randn(rows, heads, width, 16) for heads in (4, 2, 2))
    found = flex_attention(q, k, v, block_mask=blocks, enable_gqa=True)
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    shown = real_BL[:, None, :, None]
    torch.testing.assert_close(found * shown, wanted * shown, atol=1e-5, rtol=1e-5)
    eagerly = attend(q, k, v, PreparedAttention(blocks=blocks), eager=True)
    torch.testing.assert_close(eagerly * shown, wanted * shown, atol=1e-5, rtol=1e-5)
    assert blocks.kv_num_blocks.sum() + blocks.full_kv_num_blocks.sum() < blocks.kv_indices.numel()


@pytest.mark.parametrize("width", [4, 12, 16, 20])
def test_heads_too_narrow_for_a_gpu_are_widened(width: int, monkeypatch: pytest.MonkeyPatch):
    spec = patterns()["even"]
    length = spec.block_BL.shape[1]
    mask = allowed(spec, 2, length)[:, None]

    def flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _: None, grouped: bool) -> torch.Tensor:
        assert min(x.shape[-1] for x in (q, k, v)) >= 16  # or there is no kernel
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)

    monkeypatch.setattr(tiled, "_flex", lambda *form: flex)
    given = [torch.randn(2, heads, length, width, requires_grad=True) for heads in (4, 2, 2)]
    results = []
    for out in (
        tiled.attend_by_flex(*given, None),
        F.scaled_dot_product_attention(*given, attn_mask=mask, enable_gqa=True),
    ):
        results.append([out, *torch.autograd.grad(out.square().sum(), given)])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_lengths_and_rows_of_all_kinds_need_few_graphs(monkeypatch: pytest.MonkeyPatch):
    graphs: list[int] = []
    compiled = torch.compile
    count = lambda graph, _: graphs.append(1) or graph  # noqa: E731
    monkeypatch.setattr(torch, "compile", partial(compiled, backend=count))
    tiled._flex.cache_clear()
    try:
        for heads, width in ((4, 4), (2, 16)):
            before = len(graphs)
            for rows, length in ((2, 200), (3, 129), (1, 300), (2, 261)):
                spec, columns = two_stream(block_ids(torch.arange(length)[None], 4)), torch.arange(2 * length)
                blocks = tiled.block_mask(partial(who_sees, spec, key_L=columns, start=0), columns, rule_of(spec))
                q, k, v = (torch.randn(rows, n, 2 * length, width) for n in (heads, 2, 2))
                found = tiled.attend_by_flex(q, k, v, blocks)
                mask = allowed(spec, rows, 2 * length)[:, None]
                wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
            assert 1 <= len(graphs) - before <= 4
    finally:
        tiled._flex.cache_clear()
