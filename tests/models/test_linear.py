"""The layer computes what `nn.Linear` does, by whichever library."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from unmask.models import linear
from unmask.models.linear import Linear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (0, 7), (1, 1, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_product(bias: bool, shape: tuple[int, ...], dtype: torch.dtype):
    layer = Linear(7, 4, bias=bias, dtype=dtype)
    x = torch.randn(*shape).to(dtype)
    with torch.no_grad():
        found = layer(x)
    exact = x.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    torch.testing.assert_close(found.double(), exact, atol=0.05 if dtype == torch.bfloat16 else 1e-5, rtol=1e-5)
    assert found.dtype == dtype and found.shape == (*shape[:-1], 4)


def test_rows_that_do_not_lie_one_behind_the_other():
    layer, x = Linear(6, 4, bias=False), torch.randn(4, 5, 6)
    with torch.no_grad():
        for view in (x.transpose(0, 1), x[:, ::2], x[..., :6].expand(4, 5, 6)):
            torch.testing.assert_close(layer(view), view @ layer.weight.T, atol=1e-5, rtol=1e-5)


def exact_gradients(layer: nn.Linear, x: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    """In float64, by the definition."""
    flat, given = x.detach().double().reshape(-1, x.shape[-1]), gradient.double().reshape(-1, gradient.shape[-1])
    of_x = (given @ layer.weight.detach().double()).reshape(x.shape)
    return [of_x, given.T @ flat, given.sum(0)]


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (0, 7), (1, 1, 7), (33, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_the_product(shape: tuple[int, ...], dtype: torch.dtype):
    layer, x = Linear(7, 4, dtype=dtype), torch.randn(*shape, dtype=dtype, requires_grad=True)
    gradient = torch.randn(*shape[:-1], 4, dtype=dtype)
    layer(x).backward(gradient)
    for found, exact in zip(
        [x.grad, layer.weight.grad, layer.bias.grad], exact_gradients(layer, x, gradient), strict=True
    ):
        assert found.dtype == dtype and found.shape == exact.shape
        torch.testing.assert_close(found.double(), exact, atol=2e-5, rtol=1e-5)


def test_gradients_of_rows_that_do_not_lie_one_behind_the_other():
    layer, whole = Linear(6, 4), torch.randn(5, 4, 12)
    for view in (whole.transpose(0, 1)[..., :6], whole[..., ::2], whole[:1, :, 6:].expand(5, 4, 6)):
        x = view.detach().requires_grad_()
        layer.zero_grad()
        layer(x).sum().backward()  # the sum's gradient is one number, repeated without being there
        exact = exact_gradients(layer, x, torch.ones(*x.shape[:2], 4))
        for found, wanted in zip([x.grad, layer.weight.grad, layer.bias.grad], exact, strict=True):
            torch.testing.assert_close(found.double(), wanted, atol=2e-5, rtol=1e-5)


def test_what_is_frozen_gets_no_gradient():
    layer, x = Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    layer.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is None and x.grad is not None
    layer.requires_grad_(True)
    layer(x.detach()).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.detach().sum(0).expand(2, 3), atol=1e-5, rtol=1e-5)


def test_gradients_have_gradients():
    layer, x = Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    first, *_ = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    first.sum().backward()
    # the sum of 2 (x W' + b) W over rows and columns
    exact = 2 * (layer.weight.double().T @ layer.weight.double()).sum(1)
    torch.testing.assert_close(x.grad.double(), exact.expand(4, 3), atol=1e-5, rtol=1e-5)


def test_compiled_it_is_whole():
    layer, x = Linear(3, 2), torch.randn(4, 5, 3, requires_grad=True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).square().sum().backward()
    found = [x.grad, layer.weight.grad, layer.bias.grad]
    result = layer(x).detach()
    for gradient, exact in zip(found, exact_gradients(layer, x, 2 * result), strict=True):
        torch.testing.assert_close(gradient.double(), exact, atol=2e-5, rtol=1e-5)


@pytest.mark.skipif(not linear._HAS_ONEDNN, reason="this PyTorch was built without oneDNN")
def test_mixed_precision_and_other_devices_keep_their_own_product():
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert Linear(3, 2)(torch.randn(4, 3)).dtype == torch.bfloat16
    assert Linear(3, 2, device="meta")(torch.empty(4, 3, device="meta")).shape == (4, 2)


# many products of few rows each, then as many again; what the process has grown by in between
GROWTH = """
import ctypes, torch
from unmask.models.linear import keep_few_shapes, linear, summed_product

def held():
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def work(first):
    for rows in range(first, first + 100):
        for dtype in (torch.float32, torch.bfloat16):
            x, weight = torch.ones(rows, 96, dtype=dtype), torch.ones(160, 96, dtype=dtype)
            summed_product(linear(x, weight), x)

torch.set_num_threads(1)
keep_few_shapes()
work(100)
before = held()
work(200)
print(held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="counted by Linux, with another C library otherwise")
def test_rows_of_ever_new_lengths_do_not_fill_the_memory():
    environment = {**os.environ, "PYTHONPATH": str(Path(linear.__file__).parents[2])}
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True, env=environment)
    # without a bound 200 MB
    assert int(done.stdout) < 20e6
