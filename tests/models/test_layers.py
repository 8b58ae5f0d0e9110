"""Norm and gated MLP against their definitions elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from unmask.models.layers import GatedMLP, RMSNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_torchs_in_float32_whatever_the_autocast(dtype: torch.dtype):
    norm = RMSNorm(16, 1e-5)
    torch.nn.init.normal_(norm.weight)
    norm, x = norm.to(dtype), (3 * torch.randn(2, 5, 16)).to(dtype)
    expected = F.rms_norm(x.float(), (16,), norm.weight.float(), 1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, atol=1e-6, rtol=1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gated_mlp_learns_as_if_everything_were_kept(dtype: torch.dtype):
    mlp = GatedMLP(16, 24).to(dtype)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    learned = [x, *mlp.parameters()]
    plain = mlp.down_proj(F.silu(mlp.gate_proj(x)) * mlp.up_proj(x))
    mine = mlp(x)
    assert torch.equal(mine, plain)
    pairs = zip(torch.autograd.grad(mine.sum(), learned), torch.autograd.grad(plain.sum(), learned), strict=True)
    assert all(torch.equal(found, wanted) for found, wanted in pairs)
