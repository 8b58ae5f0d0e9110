"""Products by group equal one product per group, forwards and backwards, with PyTorch's kernel and without it."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from unmask.models import grouped
from unmask.models.grouped import grouped_product

ENDS = [[3, 3, 9, 20], [0, 0, 0, 20], [20, 20, 20, 20], [0, 0, 0, 0]]


def one_by_one(x_nI: torch.Tensor, weight_EOI: torch.Tensor, ends: list[int]) -> torch.Tensor:
    starts = [0, *ends[:-1]]
    return torch.cat([x_nI[a:b] @ weight.T for a, b, weight in zip(starts, ends, weight_EOI, strict=True)])


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 8), (6, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_products_and_gradients(monkeypatch, kernel: bool, ends: list[int], inputs: int, outputs: int, dtype):
    if not kernel:
        monkeypatch.setattr(grouped, "_has_kernel", lambda *_: False)
    generator = torch.Generator().manual_seed(0)
    x_nI = torch.randn(ends[-1], inputs, generator=generator).to(dtype).requires_grad_()
    weight_EOI = torch.randn(4, outputs, inputs, generator=generator).to(dtype).requires_grad_()
    slope_nO = torch.randn(ends[-1], outputs, generator=generator).to(dtype)
    found = grouped_product(x_nI, weight_EOI, torch.tensor(ends, dtype=torch.int32))
    wanted = one_by_one(x_nI, weight_EOI, ends)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted)
    ours = torch.autograd.grad(found, (x_nI, weight_EOI), slope_nO)
    theirs = torch.autograd.grad(wanted, (x_nI, weight_EOI), slope_nO)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right)


def test_a_gradient_that_is_one_number_everywhere_is_taken():
    """The kernel refuses tensors without strides of their own, such as the gradient of a sum."""
    x_nI, weight_EOI = torch.ones(4, 8, requires_grad=True), torch.ones(2, 8, 8, requires_grad=True)
    grouped_product(x_nI, weight_EOI, torch.tensor([1, 4], dtype=torch.int32)).sum().backward()
    assert (x_nI.grad == 8).all() and weight_EOI.grad[:, 0, 0].tolist() == [1, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_are_known_without_values(dtype: torch.dtype):
    """As the estimate of a run's memory needs them."""
    with FakeTensorMode():
        x_nI = torch.empty(20, 16, dtype=dtype, requires_grad=True)
        weight_EOI = torch.empty(4, 8, 16, dtype=dtype, requires_grad=True)
        made = grouped_product(x_nI, weight_EOI, torch.empty(4, dtype=torch.int32))
        made.sum().backward()
    assert made.shape == (20, 8) and weight_EOI.grad.shape == (4, 8, 16) and x_nI.grad.shape == (20, 16)


@pytest.mark.parametrize(
    ("dtype", "rows", "widths", "has"),
    [
        (torch.bfloat16, 4, (8, 16), True),
        (torch.bfloat16, 4, (8, 12), False),
        (torch.float32, 4, (4, 12), True),
        (torch.float64, 4, (8, 16), False),
        (torch.bfloat16, 0, (8, 16), False),
    ],
)
def test_the_kernel_is_asked_for_what_it_can_do(dtype: torch.dtype, rows: int, widths: tuple[int, ...], has: bool):
    if not hasattr(torch.nn.functional, "grouped_mm"):
        pytest.skip("this PyTorch has no grouped_mm")
    assert grouped._has_kernel(torch.empty(rows, widths[0], dtype=dtype), *widths) == has
