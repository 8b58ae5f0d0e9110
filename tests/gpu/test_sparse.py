"""Mixtures of experts on a CUDA device: PyTorch's kernel against products one by one, goldens, no waiting."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.models.tiny import tokens, write_config
from unmask.models.checkpoints import load_model
from unmask.models.grouped import grouped_product
from unmask.registry import FAMILIES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ends", [[30, 30, 90, 200], [0, 0, 0, 200]])
def test_products_and_gradients_equal_those_of_the_processor(dtype: torch.dtype, ends: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(size, generator=generator) for size in ((200, 64), (4, 128, 64), (200, 128))]
    results = []
    for device, kind in (("cpu", torch.float32), ("cuda", dtype)):
        x_nI, weight_EOI, slope_nO = (tensor.to(dtype).to(device, kind) for tensor in drawn)
        x_nI.requires_grad_(), weight_EOI.requires_grad_()
        made = grouped_product(x_nI, weight_EOI, torch.tensor(ends, dtype=torch.int32, device=device))
        results.append([made, *torch.autograd.grad(made, (x_nI, weight_EOI), slope_nO)])
    for here, there in zip(*results, strict=True):
        scale = 0.02 if dtype == torch.bfloat16 else 1e-3
        torch.testing.assert_close(there.float().cpu(), here, atol=scale * float(here.std()), rtol=scale)


@pytest.mark.parametrize("name", ["llada_moe", "llada2_moe", "llada21_moe"])
def test_logits_equal_the_golden_ones(shared: Path, name: str) -> None:
    golden = shared / "golden" / name
    given, wanted = load_file(golden / "inputs.safetensors"), load_file(golden / "logits.safetensors")
    with torch.no_grad():
        got = load_model(golden, dtype="float32", device="cuda")(given["ids"].cuda()).logits.cpu()
    torch.testing.assert_close(got, wanted["logits_nomask"], atol=5e-3, rtol=1e-3)


def test_a_forward_and_a_backward_pass_wait_for_nothing(tmp_path: Path) -> None:
    folder = write_config(tmp_path, FAMILIES.get("llada2"), moe_intermediate_size=32, hidden_size=64, head_dim=16)
    model = load_model(folder, from_scratch=True, dtype="bfloat16", device="cuda").train()
    given = tokens().cuda()
    model(given).logits.float().sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(given).logits.float().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(weight.grad is not None for weight in model.parameters())
