"""Attention of long rows on a processor, learned: where all see all, with products of oneDNN and powers of two.

PyTorch's kernel for processors multiplies small blocks, at a tenth of what a processor can do in bfloat16. Here a
head's scores are made some queries at a time, so that they stay in the cache, kept as one log-sum-exp per query, and
made again in the backward pass. This file knows no masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from unmask.models.linear import linear, summed_product

# scores of a head below which the kernel is sooner, and of a tile
_FEW, _TILE = {torch.bfloat16: 2**16, torch.float32: 2**18}, 2**20
LOG2_E = math.log2(math.e)


def is_for_tiles(q_BHLK: Tensor, k_BGLK: Tensor, v_BGLK: Tensor) -> bool:
    """Whether `attend_in_tiles` is the faster way."""
    dtype = q_BHLK.dtype
    return (
        q_BHLK.device.type == "cpu"
        and torch.is_grad_enabled()
        and q_BHLK.requires_grad
        and dtype in _FEW
        and dtype == k_BGLK.dtype == v_BGLK.dtype
        and q_BHLK.shape[-1] == v_BGLK.shape[-1]
        and q_BHLK.shape[2] * k_BGLK.shape[2] >= _FEW[dtype]
        and (dtype == torch.bfloat16 or not torch.is_autocast_enabled("cpu"))
        # compilers, counters of memory and recomputation know the kernel as one operation
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
    )


def attend_in_tiles(q_BHLK: Tensor, k_BGLK: Tensor, v_BGLK: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(K)) v, `[B, H, L, K]`: H query heads over G key heads, the scores in float32."""
    with torch.autocast("cpu", enabled=False):
        return _Attention.apply(q_BHLK, k_BGLK, v_BGLK)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, length, width = q.shape
        # a position's heads lie side by side, as the product that follows wants them
        out = q.new_empty(batch, length, heads, width).transpose(1, 2)
        lse = torch.empty(batch, heads, length, 1, dtype=torch.float32)
        scale = LOG2_E * width**-0.5
        for row, head, shared in _heads(q, k):
            # in one piece: oneDNN is very slow on others; and in float32, since rounded scores would matter most
            queries, keys, values = (
                q[row, head].contiguous().float(),
                k[row, shared].contiguous().float(),
                v[row, shared].contiguous(),
            )
            for some in _some(length, len(keys)):
                score = linear(queries[some], keys)
                most = score.amax(1, keepdim=True) * scale
                # e to a power goes through MKL, at a quarter of the speed
                torch.add(-most, score, alpha=scale, out=score).exp2_()
                total = score.sum(1, keepdim=True)
                out[row, head, some] = linear(score.to(q.dtype), values.t()) / total
                lse[row, head, some] = most + total.log2()
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out, lse = ctx.saved_tensors
        width, of_out = q.shape[-1], gradients[0]
        scale, of_q = width**-0.5, torch.empty_like(q)
        of_k, of_v = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        for row, head, shared in _heads(q, k):
            queries, keys, values = q[row, head].contiguous(), k[row, shared].contiguous(), v[row, shared].contiguous()
            exact_queries, exact_keys = queries.float(), keys.float()
            arriving = of_out[row, head].contiguous()
            mean = (arriving.float() * out[row, head]).sum(1, keepdim=True)
            for some in _some(len(queries), len(keys)):
                chance = linear(exact_queries[some], exact_keys)
                torch.add(-lse[row, head, some], chance, alpha=LOG2_E * scale, out=chance).exp2_()
                of_v[row, shared] += summed_product(chance.to(q.dtype), arriving[some])
                slope = linear(arriving[some], values).float().sub_(mean[some]).mul_(chance).to(q.dtype)
                of_q[row, head, some] = linear(slope, keys.t()) * scale
                of_k[row, shared] += summed_product(slope, queries[some])
        return of_q, of_k.mul_(scale).to(k.dtype), of_v.to(v.dtype)


def _heads(q: Tensor, k: Tensor) -> Iterator[tuple[int, int, int]]:
    """Row, query head and the key head that it shares."""
    groups = q.shape[1] // k.shape[1]
    return ((row, head, head // groups) for row in range(q.shape[0]) for head in range(q.shape[1]))


def _some(queries: int, keys: int) -> list[slice]:
    size = max(1, _TILE // keys)
    return [slice(start, min(queries, start + size)) for start in range(0, queries, size)]
