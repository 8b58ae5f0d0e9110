"""The layer computes what `nn.Linear` does, by whichever library."""

from __future__ import annotations

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


def test_where_something_is_learned_it_is_the_plain_layer():
    layer, x = Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    layer(x).square().sum().backward()
    twin = nn.Linear(3, 2)
    twin.load_state_dict(layer.state_dict())
    again = x.detach().clone().requires_grad_()
    twin(again).square().sum().backward()
    assert torch.equal(layer.weight.grad, twin.weight.grad) and torch.equal(x.grad, again.grad)


@pytest.mark.skipif(not linear._HAS_ONEDNN, reason="this PyTorch was built without oneDNN")
def test_mixed_precision_and_other_devices_keep_their_own_product():
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert Linear(3, 2)(torch.randn(4, 3)).dtype == torch.bfloat16
    assert Linear(3, 2, device="meta")(torch.empty(4, 3, device="meta")).shape == (4, 2)
