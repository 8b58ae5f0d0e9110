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

from unmask.models.layers import GatedMLP, RMSNorm
from unmask.models.linear import Linear
from unmask.models.packed import Offer, PackedWeight, Shelf, Source, are_current, can_be_packed
from unmask.models.rotary import Rotation

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
        self.dtype, self.made_of = dtype, list[Source]()
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
    """`dense.Layer.ask`, of all places or of those that are wanted."""

    def __init__(self, layer: Any) -> None:
        attention = layer.attention
        self._norm, self._attention, self._heads = Norm(layer.attention_norm), attention, attention.heads
        projections = inward(attention)
        # few queries are asked of the last layer: a product of their own
        self._queries = PackedWeight(projections.pop(0)) if layer.is_last and not attention.fused else None
        self._inward = PackedWeight(*projections)
        self.packed = [self._inward, *([] if self._queries is None else [self._queries])]

    def __call__(self, x_BLD: Tensor, rotation: Rotation, wanted: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each `[B, heads, L, K]`, rotated."""
        if wanted is None and self._queries is None:
            return self._together(x_BLD, rotation)
        normed_BLD, (of_queries, of_keys, _) = self._norm(x_BLD), self._heads
        if self._queries is None:
            assert wanted is not None
            every = _by_head(self._inward, normed_BLD, sum(self._heads))
            q, k, v = every.split_with_sizes(self._heads, 2)
            q = wanted.asking(q)
        else:
            q = _by_head(self._queries, normed_BLD if wanted is None else wanted.asking(normed_BLD), of_queries)
            k, v = _by_head(self._inward, normed_BLD, 2 * of_keys).chunk(2, 2)
        q, k = self._attention.q_norm(q), self._attention.k_norm(k)
        q = (rotation if wanted is None else wanted.angles(rotation)).apply(q.transpose(1, 2))
        return q, rotation.apply_side_by_side(k).transpose(1, 2), v.transpose(1, 2)

    def _together(self, x_BLD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        of_queries, of_keys, _ = self._heads
        every = _by_head(self._inward, self._norm(x_BLD), sum(self._heads))
        turning, values = every.split_with_sizes((of_queries + of_keys, of_keys), 2)
        if isinstance(self._attention.q_norm, RMSNorm):
            q, k = turning.split_with_sizes((of_queries, of_keys), 2)
            turning = torch.cat((self._attention.q_norm(q), self._attention.k_norm(k)), 2)
        turned = rotation.apply_side_by_side(turning).transpose(1, 2)
        q, k = turned.split_with_sizes((of_queries, of_keys), 1)
        return q, k, values.transpose(1, 2)


def _by_head(packed: PackedWeight, x_BLD: Tensor, heads: int) -> Tensor:
    """The product, with its biases, `[B, L, heads, K]`."""
    biases: list[Tensor] = [linear.bias for linear in packed.linears if linear.bias is not None]
    return packed.product(x_BLD, torch.cat(biases) if biases else None).unflatten(-1, (heads, -1))


class Answering:
    """`dense.Layer.answer`."""

    def __init__(self, layer: Any) -> None:
        self._norm, mlp = Norm(layer.mlp_norm), layer.mlp
        self._of_seen = PackedWeight(layer.attention.o_proj)
        self._gate_up = PackedWeight(mlp.gate_proj, mlp.up_proj)
        self._down = PackedWeight(mlp.down_proj)
        self.packed = [self._of_seen, self._gate_up, self._down]

    def __call__(self, x_BLD: Tensor, seen_BHLK: Tensor) -> Tensor:
        """The stream after the layer."""
        x_BLD = self._of_seen.product(seen_BHLK.transpose(1, 2).flatten(2)).add_(x_BLD)
        gate, up = self._gate_up.product(self._norm(x_BLD)).chunk(2, -1)
        return self._down.product(F.silu(gate).mul_(up)).add_(x_BLD)


class PackedLayer:
    """Both parts of a layer; None: one that the layer has to compute itself."""

    def __init__(self, layer: Any, parts: tuple[bool, bool]) -> None:
        self.ask = Asking(layer) if parts[0] else None
        self.answer = Answering(layer) if parts[1] else None
        packed = [*(self.ask.packed if self.ask else ()), *(self.answer.packed if self.answer else ())]
        self.dtype = packed[0].dtype
        self.made_of = [source for weight in packed for source in weight.made_of]

    def is_current(self) -> bool:
        """See `packed.Copy`."""
        return are_current(self.made_of)


def offer(layer: Any, shelf: Shelf) -> list[Offer]:
    """The copy of a `dense.Layer`, as far as this is as it was made: no adapter, no hook, not compiled."""
    if "ask" in layer.__dict__ or not is_plain(layer):
        return []
    attention, mlp = layer.attention, layer.mlp
    of_ask, of_answer = inward(attention), [attention.o_proj]
    can_ask = are_plain(of_ask, [layer.attention_norm])
    can_answer = False
    if type(mlp) is GatedMLP and is_plain(mlp):
        of_answer += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        can_answer = are_plain(of_answer, [layer.mlp_norm])
    linears = (*(of_ask if can_ask else ()), *(of_answer if can_answer else ()))
    return [Offer(shelf, linears, partial(PackedLayer, layer, (can_ask, can_answer)))] if linears else []


def inward(attention: Any) -> list[Any]:
    """The layers that give queries, keys and values, in this order."""
    return [attention.qkv_proj] if attention.fused else [attention.q_proj, attention.k_proj, attention.v_proj]


def are_plain(linears: list[Any], norms: list[Any]) -> bool:
    """Whether they can be packed, and calling them means computing them and nothing else."""
    return (
        all(type(linear) is Linear and is_plain(linear) for linear in linears)
        and all(type(norm) is RMSNorm and is_plain(norm) for norm in norms)
        and can_be_packed([linear.weight for linear in linears])
    )


def is_plain(module: nn.Module) -> bool:
    """Whether nobody asked to be told when it is called."""
    return not (module._forward_hooks or module._forward_pre_hooks)
