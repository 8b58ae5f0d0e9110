"""The two parts of a dense layer while it decodes on a processor: the same numbers in fewer calls.

In a small network the calls take as long as the products. Here queries, keys and values are one product, gate and up
another, queries and keys are turned together, and whether the copies of the weights still fit is asked once per part.
Knows a layer by its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.models.layers import GatedMLP, RMSNorm, Rotation
from unmask.models.linear import Linear
from unmask.models.packed import Offer, PackedWeight, Shelf, can_be_packed

_MOST_ANGLES = 8


class Norm:
    """`layers.RMSNorm`, up to rounding: a row's length is one operation, the mean of its squares is several."""

    def __init__(self, norm: RMSNorm) -> None:
        self._norm, self._share = norm, 1 / norm.weight.shape[0]
        self._eps = torch.tensor(norm.eps)

    def __call__(self, x_BLD: Tensor) -> Tensor:
        """See `RMSNorm`."""
        if x_BLD.dtype != torch.float32:
            return self._norm.forward(x_BLD)
        length = torch.linalg.vector_norm(x_BLD, dim=-1, keepdim=True)
        scale = torch.addcmul(self._eps, length, length, value=self._share).rsqrt_()
        return (x_BLD * scale).mul_(self._norm.weight)


class Angles:
    """Rotations, kept: those of the same columns are asked for in each step."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._kept: dict[tuple[int, int], Rotation] = {}

    def is_current(self) -> bool:
        """Always: they depend on no weight."""
        return True

    def at(self, start: int, rows: int, make: Callable[[], Rotation]) -> Rotation:
        """Of so many columns from `start` on."""
        key = start, rows
        if key not in self._kept:
            if len(self._kept) >= _MOST_ANGLES:
                self._kept.clear()
            self._kept[key] = make()
        return self._kept[key]


class Asking:
    """`dense.Layer.ask`."""

    def __init__(self, layer: Any) -> None:
        attention = layer.attention
        self._norm, self._attention, self._heads = Norm(layer.attention_norm), attention, attention.heads
        self._inward = PackedWeight(*inward(attention))
        self.dtype, self.is_current = self._inward.dtype, self._inward.is_current

    def __call__(self, x_BLD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each `[B, heads, L, K]`, rotated."""
        of_queries, of_keys, _ = self._heads
        product = self._inward.product(self._norm(x_BLD), self._bias()).unflatten(-1, (sum(self._heads), -1))
        turning, values = product.split_with_sizes((of_queries + of_keys, of_keys), 2)
        if isinstance(self._attention.q_norm, RMSNorm):
            q, k = turning.split_with_sizes((of_queries, of_keys), 2)
            turning = torch.cat((self._attention.q_norm(q), self._attention.k_norm(k)), 2)
        turned = rotation.apply_side_by_side(turning).transpose(1, 2)
        q, k = turned.split_with_sizes((of_queries, of_keys), 1)
        return q, k, values.transpose(1, 2)

    def _bias(self) -> Tensor | None:
        biases = [linear.bias for linear in self._inward.linears if linear.bias is not None]
        return torch.cat(biases) if biases else None


class Answering:
    """`dense.Layer.answer`."""

    def __init__(self, layer: Any) -> None:
        self._norm, mlp = Norm(layer.mlp_norm), layer.mlp
        self._of_seen = PackedWeight(layer.attention.o_proj)
        self._gate_up = PackedWeight(mlp.gate_proj, mlp.up_proj)
        self._down = PackedWeight(mlp.down_proj)
        self.dtype = self._down.dtype

    def is_current(self) -> bool:
        """See `packed.Copy`."""
        return self._of_seen.is_current() and self._gate_up.is_current() and self._down.is_current()

    def __call__(self, x_BLD: Tensor, seen_BHLK: Tensor) -> Tensor:
        """The stream after the layer."""
        x_BLD = self._of_seen.product(seen_BHLK.transpose(1, 2).flatten(2)).add_(x_BLD)
        gate, up = self._gate_up.product(self._norm(x_BLD)).chunk(2, -1)
        return self._down.product(F.silu(gate).mul_(up)).add_(x_BLD)


def offers(layer: Any, asking: Shelf, answering: Shelf) -> list[Offer]:
    """The copies of a `dense.Layer`'s parts, where these are as they were made: no adapter, no hook, not compiled."""
    found: list[Offer] = []
    if "ask" in layer.__dict__ or not _is_plain(layer):
        return found
    attention, mlp = layer.attention, layer.mlp
    of_ask, of_answer = inward(attention), [attention.o_proj]
    # the last layer has few queries, which are a product of their own
    if not layer.is_last and _are_plain(of_ask, [layer.attention_norm]):
        found.append(Offer(asking, tuple(of_ask), partial(Asking, layer)))
    if type(mlp) is GatedMLP and _is_plain(mlp):
        of_answer += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        if _are_plain(of_answer, [layer.mlp_norm]):
            found.append(Offer(answering, tuple(of_answer), partial(Answering, layer)))
    return found


def inward(attention: Any) -> list[Any]:
    """The layers that give queries, keys and values, in this order."""
    return [attention.qkv_proj] if attention.fused else [attention.q_proj, attention.k_proj, attention.v_proj]


def _are_plain(linears: list[Any], norms: list[Any]) -> bool:
    """Whether they can be packed, and calling them means computing them and nothing else."""
    return (
        all(type(linear) is Linear and _is_plain(linear) for linear in linears)
        and all(type(norm) is RMSNorm and _is_plain(norm) for norm in norms)
        and can_be_packed([linear.weight for linear in linears])
    )


def _is_plain(module: nn.Module) -> bool:
    return not (module._forward_hooks or module._forward_pre_hooks)
