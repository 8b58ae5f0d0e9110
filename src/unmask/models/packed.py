"""Weights laid out as oneDNN multiplies with them: second copies, used in inference mode while somebody holds them.

On a processor each product lays its weight out anew, which for the few positions of a decoding step is a fourth of the
work or more. Knows no network, and not what is decoded.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

_TYPES = (torch.float32, torch.bfloat16)
# bytes of a copy that may stay
_STAYS = 2**26


class Copy(Protocol):
    """Something made of weights of one type."""

    dtype: torch.dtype
    made_of: list[Source]

    def is_current(self) -> bool:
        """Whether the weights are still those that it was made of, and unchanged since."""
        ...


class Source(NamedTuple):
    """A parameter, by its name among its module's own, as it was when a copy was made."""

    named: dict[str, nn.Parameter | None]
    name: str
    parameter: Tensor
    pointer: int
    version: int

    @staticmethod
    def of(module: nn.Module, name: str) -> Source:
        """Of a parameter as it is now."""
        parameter = module._parameters[name]
        assert parameter is not None
        return Source(module._parameters, name, parameter, parameter.data_ptr(), parameter._version)


def are_current(sources: Sequence[Source]) -> bool:
    """Whether nobody wrote to any of the weights since, or put another in its place."""
    # asked for every layer in every step: past the module's own way to its weight, which takes as long as the rest
    for named, name, parameter, pointer, version in sources:
        if named.get(name) is not parameter or parameter._version != version or parameter.data_ptr() != pointer:
            return False
    return True


def likeness(sources: Sequence[Source]) -> list[Tensor]:
    """A number for each row of each weight, of which some differ where weights do.

    What is written through `.data` or by another library counts no version.
    """
    found: list[Tensor] = []
    for source in sources:
        rows = source.parameter.detach().reshape(-1, source.parameter.shape[-1])
        weights = torch.linspace(1.0, 2.0, rows.shape[1], dtype=rows.dtype)
        found.append(rows @ weights)
    return found


class PackedWeight:
    """A copy of the weights `[N, K]` of linear layers, below each other, as they were when this was made."""

    def __init__(self, *linears: nn.Linear) -> None:
        weights = [linear.weight.detach() for linear in linears]
        self.linears, self.dtype = linears, weights[0].dtype
        self.made_of = [Source.of(linear, "weight") for linear in linears]
        # laid out for some tens of rows; right for any number of them
        self._packed = torch.ops.mkldnn._reorder_linear_weight(
            weights[0] if len(weights) == 1 else torch.cat(weights), 32
        )
        self._product = torch.ops.mkldnn._linear_pointwise.default

    def is_current(self) -> bool:
        """See `Copy`."""
        return are_current(self.made_of)

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x @ weight.T + bias` of `[..., K]`, without gradient; of two rows and more as the weights, bit for bit."""
        return self._product(x, self._packed, bias, "none", [], None)


class Loan:
    """A copy that is in use while anybody holds this."""

    def __init__(self, copy: Copy) -> None:
        self.copy = copy


class Shelf:
    """Where a copy lies while anybody holds its loan; it may stay for the next one."""

    def __init__(self) -> None:
        self._lent: weakref.ref[Loan] | None = None
        self._kept: tuple[Copy, list[Tensor]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Shelf, ()  # a copy of the layer has weights of its own

    def lend(self, make: Callable[[], Copy], *, stays: bool = False) -> Loan:
        """The copy, shared with whoever holds its loan; `stays`: it is kept after that, out of use."""
        loan = None if self._lent is None else self._lent()
        if loan is None or not loan.copy.is_current():
            kept = self._still()
            copy = make() if kept is None else kept[0]
            self._kept = (kept or (copy, likeness(copy.made_of))) if stays else None
            loan = Loan(copy)
            self._lent = weakref.ref(loan)
        return loan

    def _still(self) -> tuple[Copy, list[Tensor]] | None:
        """What was kept, if it is as if it were made now."""
        if self._kept is None or not self._kept[0].is_current():
            return None
        copy, before = self._kept
        return self._kept if all(map(torch.equal, likeness(copy.made_of), before)) else None

    def fitting(self, x: Tensor) -> Any:
        """The copy that is held, where `x` may be multiplied with it; None: there is none, or it does not fit."""
        if torch.compiler.is_compiling() or self._lent is None:
            return None
        # asked for by name: else what is scored while a text is still being written would differ in its last digits
        if not torch.is_inference_mode_enabled():
            return None
        loan = self._lent()
        held = None if loan is None else loan.copy
        if held is None or x.dtype != held.dtype or x.device.type != "cpu" or x.numel() == 0:
            return None
        return held if held.is_current() and not torch.is_autocast_enabled("cpu") else None


@dataclass(frozen=True)
class Offer:
    """A copy that could be made: where it would lie, of the weights of which layers, and how.

    Attributes:
        is_slow: to make it takes as long as some steps of decoding; so a small one stays.
    """

    shelf: Shelf
    linears: tuple[nn.Linear, ...]
    make: Callable[[], Copy]
    is_slow: bool = False

    def lend(self) -> Loan:
        """The copy."""
        return self.shelf.lend(self.make, stays=self.is_slow and self.size <= _STAYS)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(linear.weight.numel() * linear.weight.element_size() for linear in self.linears)


def can_be_packed(weights: Sequence[Tensor]) -> bool:
    """Whether oneDNN has a layout for them, and they are here in full."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and len({weight.dtype for weight in weights}) == 1
        and all(
            weight.device.type == "cpu"
            and weight.dtype in _TYPES
            # of a weight that is divided over processes (ZeRO-3) nothing is here until its layer runs
            and weight.ndim == 2
            and weight.numel() > 0
            # a tensor of another class (sharded, quantised, fake) has products of its own
            and type(weight) in (Tensor, nn.Parameter)
            for weight in weights
        )
    )
