"""A linear layer that computes float32 on a processor with oneDNN, forward and backward.

PyTorch gives float32 products to MKL, which is at half speed or less on processors other than Intel's; oneDNN, which
it has on board for bfloat16, is as fast everywhere. For all but float32 on a CPU, this is `nn.Linear`.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.models.native.library import MOST_OF_HEAD
from unmask.models.native.weight import NativeWeight, fits
from unmask.models.packed import Loan, Offer, PackedWeight, Shelf, can_be_packed

# shapes of products whose code is kept in a training run; a step has about 40
KEPT_SHAPES = 128


def keep_few_shapes() -> None:
    """Bound what oneDNN keeps of the products it compiled; to be called before the first of them.

    Two caches hold 1,024 shapes each, 0.3 MB a piece: with another number of masked tokens in each update a run would
    grow by hundreds of MB. To compile one again takes half a millisecond, which decoding, whose steps are short and
    whose shapes return, would feel.
    """
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(KEPT_SHAPES))


class Linear(nn.Linear):
    """`nn.Linear`; the same result and the same gradients up to rounding.

    Attributes:
        is_native: where it is small, its copy is for C++ that is compiled here.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shelf, self.is_native = Shelf(), False

    def forward(self, input: Tensor) -> Tensor:
        """`input @ weight.T + bias`."""
        packed = self.shelf.fitting(input)
        return linear(input, self.weight, self.bias) if packed is None else packed.product(input, self.bias)

    def offers(self) -> list[Offer]:
        """The copy of its weight, if one can be made."""
        if not can_be_packed([self.weight]):
            return []
        kind = NativeWeight if self.is_native and fits(self.weight, MOST_OF_HEAD) else PackedWeight
        return [Offer(self.shelf, (self,), partial(kind, self))]


def pack(model: nn.Module, most: int = 2**30) -> list[Loan]:
    """Copies of a model's weights that make its products faster on a processor, in use while the list is kept, in
    inference mode.

    Args:
        most: bytes that copies may take in all. The head's comes first, then those of the layers, in order.
    """
    offers: list[Offer] = [offer for module in model.modules() for offer in getattr(module, "offers", list)()]
    together = {id(linear) for offer in offers if len(offer.linears) > 1 for linear in offer.linears}
    alone = [offer for offer in offers if len(offer.linears) == 1 and id(offer.linears[0]) not in together]
    alone.sort(key=lambda offer: -offer.linears[0].weight.shape[0])
    held: list[Loan] = []
    for offer in (*alone, *(offer for offer in offers if len(offer.linears) != 1)):
        most -= offer.size
        held += [offer.lend()] if most >= 0 else []
    return held


# oneDNN is part of PyTorch on most processors; it can be left out of a build
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` of `[..., K]`, `[N, K]` and `[N]`, by the fastest library at hand."""
    if not _is_for_onednn(x, weight):
        return F.linear(x, weight, bias)
    if torch.compiler.is_compiling():
        return torch.ops.unmask.product(x, weight, bias)
    if torch.is_grad_enabled():
        return _Product.apply(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], None)


def summed_product(left: Tensor, right: Tensor) -> Tensor:
    """`left.T @ right` of `[n, M]` and `[n, K]`, summed over rows, `[M, K]`."""
    if not _is_for_onednn(left, right):
        return left.t() @ right
    # oneDNN takes a transposed weight as it lies, but wants a copy of a transposed input: let that be the narrower one
    return linear(right.t(), left.t()).t() if left.shape[1] > right.shape[1] else linear(left.t(), right.t())


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # under an adapter the weight is frozen, and nobody asks for its input again
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], None)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        # sums leave gradients whose numbers all lie in one place
        of_result = gradients[0].contiguous()
        flat = of_result.reshape(-1, of_result.shape[-1])
        of_x = linear(of_result, weight.t()) if ctx.needs_input_grad[0] else None
        of_weight = summed_product(flat, x.reshape(-1, x.shape[-1])) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, flat.sum(0) if ctx.needs_input_grad[2] else None


# the same as an operation that compilers leave as it is: inductor takes oneDNN's own for one of packed weights
_OPERATIONS = torch.library.Library("unmask", "FRAGMENT")
_OPERATIONS.define("product(Tensor rows, Tensor weight, Tensor? bias) -> Tensor")


@torch.library.impl(_OPERATIONS, "product", "CPU")
def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], None)


@torch.library.register_fake("unmask::product", lib=_OPERATIONS)
def _(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    del bias
    return rows.new_empty(*rows.shape[:-1], weight.shape[0])


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])


def _backward(ctx: Any, of_result: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    (rows, weight), product = ctx.saved_tensors, torch.ops.unmask.product
    flat = of_result.reshape(-1, of_result.shape[-1]).contiguous()
    of_rows = product(flat, weight.t(), None).view(rows.shape) if ctx.needs_input_grad[0] else None
    of_weight = product(flat.t(), rows.reshape(-1, rows.shape[-1]).t(), None) if ctx.needs_input_grad[1] else None
    return of_rows, of_weight, flat.sum(0) if ctx.needs_input_grad[2] else None


torch.library.register_autograd("unmask::product", _backward, setup_context=_remember, lib=_OPERATIONS)


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _HAS_ONEDNN
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        # a tensor of another class (sharded, quantised, fake) has products of its own
        and type(weight) in (Tensor, nn.Parameter)
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )
