"""A small weight as `trunk.cpp` multiplies with it: the head of a small network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unmask.models.native.library import library, pointer
from unmask.models.packed import Source, are_current


class NativeWeight:
    """A copy of a layer's weight `[N, K]`, its rows side by side; see `packed.PackedWeight`."""

    def __init__(self, linear: nn.Linear) -> None:
        native = library()
        assert native is not None
        weight, lanes = linear.weight.detach(), native.lanes()
        self.dtype, self.made_of = weight.dtype, [Source.of(linear, "weight")]
        self._multiply, (self._count, self._depth) = native.multiply_rows, weight.shape
        padded = nn.functional.pad(weight, (0, 0, 0, -len(weight) % lanes))
        self._panels = padded.unflatten(0, (-1, lanes)).transpose(1, 2).contiguous()

    def is_current(self) -> bool:
        """See `packed.Copy`."""
        return are_current(self.made_of)

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x @ weight.T + bias` of `[..., K]`, without gradient; a row does not depend on those beside it."""
        x, out = x.contiguous(), x.new_empty(*x.shape[:-1], self._count)
        panels = pointer(self._panels)
        self._multiply(pointer(x), x.numel() // self._depth, self._depth, panels, self._count, pointer(out))
        return out if bias is None else out.add_(bias)


def fits(weight: Tensor, most: int) -> bool:
    """Whether a weight can be held so, and takes `most` bytes at most."""
    is_small = weight.dtype == torch.float32 and weight.numel() * weight.element_size() <= most
    return is_small and library() is not None
