"""Products of rows with matrices, one matrix per group of adjacent rows, in one operation.

On a GPU, and on a CPU that has it, this is PyTorch's own kernel (`grouped_mm`); elsewhere one product per group. Knows
no router and no expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_ALIGNED = 16  # bytes to which the kernel wants every row to begin


def grouped_product(x_nI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """`[n, O]`: each row times the transposed matrix of its group, in their common type.

    Args:
        x_nI: rows, those of a group adjacent, groups in the order of their matrices.
        weight_EOI: one matrix per group, laid out as in `nn.Linear`.
        ends_E: int32; where each group ends, the last at n. Groups may be empty.
    """
    return torch.ops.unmask.grouped_product(x_nI, weight_EOI, ends_E)


@torch.library.custom_op(
    "unmask::grouped_product", mutates_args=(), schema="(Tensor rows, Tensor weights, Tensor ends) -> Tensor"
)
def _product(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    if _has_kernel(rows, rows.shape[1], weights.shape[1]):
        return F.grouped_mm(rows.contiguous(), weights.transpose(1, 2), offs=ends)
    made = rows.new_empty(rows.shape[0], weights.shape[1])
    for group, start, end in _groups(ends):
        torch.mm(rows[start:end], weights[group].t(), out=made[start:end])
    return made


@torch.library.custom_op(
    "unmask::grouped_outer", mutates_args=(), schema="(Tensor left, Tensor right, Tensor ends) -> Tensor"
)
def _outer(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    """`[E, O, I]`: left `[n, O]` transposed, times right `[n, I]`, over the rows of each group."""
    if _has_kernel(left, left.shape[1], right.shape[1]):
        return F.grouped_mm(left.contiguous().t(), right.contiguous(), offs=ends)
    made = left.new_zeros(ends.shape[0], left.shape[1], right.shape[1])
    for group, start, end in _groups(ends):
        torch.mm(left[start:end].t(), right[start:end], out=made[group])
    return made


def _has_kernel(rows: Tensor, *widths: int) -> bool:
    """Whether `grouped_mm` takes these: it has a limit on types, on alignment and on the age of the GPU."""
    if not hasattr(F, "grouped_mm") or rows.shape[0] == 0:
        return False
    if rows.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    if any(width * rows.element_size() % _ALIGNED for width in widths):
        return False
    return rows.device.type != "cuda" or torch.cuda.get_device_capability(rows.device) >= (8, 0)


def _groups(ends: Tensor) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each group that has rows; waits for the device."""
    start = 0
    for group, end in enumerate(ends.tolist()):
        if end > start:
            yield group, start, end
        start = end


@_product.register_fake
def _(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weights.shape[1])


@_outer.register_fake
def _(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    return left.new_empty(ends.shape[0], left.shape[1], right.shape[1])


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    rows, weights, ends = ctx.saved_tensors
    to_rows, to_weights, _ = ctx.needs_input_grad
    return (
        grouped_product(grad, weights.transpose(1, 2), ends) if to_rows else None,
        torch.ops.unmask.grouped_outer(grad, rows, ends) if to_weights else None,
        None,
    )


_product.register_autograd(_backward, setup_context=_remember)
