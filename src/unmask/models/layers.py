"""The parts that every network here is made of, beside attention: norm, gated MLP, the sum with the stream.

This file knows no checkpoint and no configuration file.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.models.linear import Linear
from unmask.models.recompute import made_again


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 whatever the input's type (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype == torch.float32:
            # the same numbers, sooner
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        with torch.autocast(x.device.type, enabled=False):
            scaled = x.float()
            scaled = scaled * torch.rsqrt(scaled.square().mean(-1, keepdim=True) + self.eps)
            return self.weight * scaled.to(x.dtype)


class GatedMLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))` (Shazeer 2020)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = Linear(width, inner, bias=False)
        self.up_proj = Linear(width, inner, bias=False)
        self.down_proj = Linear(inner, width, bias=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        gate, up = self.gate_proj(x_BLD), self.up_proj(x_BLD)
        if gate.dtype != up.dtype or (torch.is_grad_enabled() and torch.compiler.is_compiling()):
            return self.down_proj(F.silu(gate) * up)
        if torch.is_grad_enabled():
            product = _Gated.apply(gate, up)
            with made_again(product, partial(_gated, gate.detach(), up.detach())):
                return self.down_proj(product)
        return self.down_proj(F.silu(gate, inplace=True).mul_(up))


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate).mul_(up)


class _Gated(torch.autograd.Function):
    """`silu(gate) * up`, of which silu(gate) is not kept: the same operations as without, one of them done twice."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradients[0] * up, gate), F.silu(gate).mul_(gradients[0])


def added(stream: Tensor, made: Tensor) -> Tensor:
    """Their sum; where nothing is learned it takes the place of `made`: new memory costs more than the sum."""
    if torch.is_grad_enabled() or made.dtype != stream.dtype:
        return stream + made
    return made.add_(stream)
