"""A weight laid out as oneDNN multiplies with it: a second copy, used for as long as somebody holds it.

On a processor each product lays its weight out anew, which for the few positions of a decoding step is a fourth of the
work or more. Knows no network, and not what is decoded.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

_TYPES = (torch.float32, torch.bfloat16)


class PackedWeight:
    """A copy of a weight `[N, K]` as it was when this was made."""

    def __init__(self, weight: Tensor) -> None:
        self._made_of = _state(weight)
        # laid out for some tens of rows; right for any number of them
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 32)

    def is_of(self, weight: Tensor) -> bool:
        """Whether the weight is the same one, and unchanged since."""
        return self._made_of == _state(weight)

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x @ weight.T + bias` of `[..., K]`, without gradient; of two rows and more as the weight, bit for bit."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, "none", [], None)


class Shelf:
    """Where the copy of one layer's weight lies while anybody holds it."""

    def __init__(self) -> None:
        self._lent: weakref.ref[PackedWeight] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Shelf, ()  # a copy of the layer has a weight of its own

    def pack(self, weight: Tensor) -> PackedWeight | None:
        """The copy, shared with whoever holds it; None where none can be made."""
        held = None if self._lent is None else self._lent()
        if held is None or not held.is_of(weight):
            held = PackedWeight(weight) if _can_be_packed(weight) else None
            self._lent = None if held is None else weakref.ref(held)
        return held

    def fitting(self, x: Tensor, weight: Tensor) -> PackedWeight | None:
        """The copy that is held, where this product may be made with it."""
        if self._lent is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        held = self._lent()
        if held is None or not held.is_of(weight) or torch.is_autocast_enabled("cpu"):
            return None
        return held if x.dtype == weight.dtype and x.device == weight.device and x.numel() > 0 else None


def _state(weight: Tensor) -> tuple[int, int, torch.dtype, torch.Size]:
    return weight.data_ptr(), weight._version, weight.dtype, weight.shape


def _can_be_packed(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype in _TYPES
        # of a weight that is divided over processes (ZeRO-3) nothing is here until its layer runs
        and weight.ndim == 2
        and weight.numel() > 0
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        # a tensor of another class (sharded, quantised, fake) has products of its own
        and type(weight) in (Tensor, nn.Parameter)
    )
