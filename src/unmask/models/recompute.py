"""Activations that are not kept but computed again in the backward pass: less memory, more time, the same gradients.

Knows modules and operations by name, no network.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

# each how many layers compute again
_EVERY = {
    "whole_layer": 1,
    "one_in_two": 2,
    "one_in_three": 3,
    "one_in_four": 4,
    # the layer, and within that its attention and its MLP each by itself, so that only one of them is there at a time
    "fine_grained": 1,
    # all but products of matrices and attention
    "selective": 1,
}
STRATEGIES = tuple(_EVERY)
# as PyTorch names them; written-out attention is left out, whose result is longer than what it is made of
_COSTLY = (
    "aten::mm",
    "aten::addmm",
    "aten::_scaled_dot_product",
    "aten::_flash_attention",
    "aten::_efficient_attention",
    "flex_attention",
    "mkldnn::_linear_pointwise",
    "unmask::",
)


def run_layer(layer: nn.Module, strategy: str | None, index: int, *inputs: Any) -> Any:
    """`layer(*inputs)`, where the number `index` of a layer is one that the strategy computes again.

    Args:
        strategy: one of `STRATEGIES`; None: everything is kept.
    """
    if strategy is None or index % _EVERY[strategy] or not (layer.training and torch.is_grad_enabled()):
        return layer(*inputs)
    if strategy == "selective":
        return checkpoint(layer, *inputs, use_reentrant=False, context_fn=_all_but_products)
    return checkpoint(layer, *inputs, use_reentrant=False)


def run_part(layer: nn.Module, strategy: str | None, part: Callable[..., Any], *inputs: Any) -> Any:
    """`part(*inputs)`, a part of a layer that `run_layer` runs."""
    if strategy == "fine_grained" and layer.training and torch.is_grad_enabled():
        return checkpoint(part, *inputs, use_reentrant=False)
    return part(*inputs)


def made_again(made: Tensor, make: Callable[[], Tensor]) -> AbstractContextManager[Any]:
    """Within it, who would keep `made` for the backward pass keeps nothing; there it is `make()`, the same numbers.

    Where somebody else decides what is kept (a layer that is computed again, offloading), nothing changes.
    """
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return nullcontext()
    storage, count = made.untyped_storage()._cdata, made.numel()

    def keep(tensor: Tensor) -> Tensor | torch.Size:
        is_it = tensor.untyped_storage()._cdata == storage and tensor.numel() == count and tensor.is_contiguous()
        return tensor.shape if is_it else tensor

    def give(kept: Tensor | torch.Size) -> Tensor:
        return kept if isinstance(kept, Tensor) else make().view(kept)

    return saved_tensors_hooks(keep, give)


def _policy(_context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    is_costly = operation.name().startswith(_COSTLY)
    return CheckpointPolicy.MUST_SAVE if is_costly else CheckpointPolicy.PREFER_RECOMPUTE


_all_but_products = partial(create_selective_checkpoint_contexts, _policy)
