"""Attention in tiles against PyTorch's own in float64, and where it is taken."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.training.test_memory import allocated
from unmask.models import cpu_attention
from unmask.models.attention import PreparedAttention, attend
from unmask.models.cpu_attention import attend_in_tiles, is_for_tiles
from unmask.training.rehearsal import Ledger


def asked(
    dtype: torch.dtype, queries: int = 600, keys: int = 520, heads: int = 4, shared: int = 2
) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    sizes = ((2, queries, heads, 16), (2, keys, shared, 16), (2, keys, shared, 16))
    # as projections leave them: a position's heads side by side; large scores, which rounding would move most
    rows = [3 * torch.randn(size, generator=chance).to(dtype).transpose(1, 2) for size in sizes]
    return [row.detach().requires_grad_() for row in rows]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tile", [2**20, 520 * 70])
def test_result_and_gradients_are_as_near_the_definition_as_the_kernels(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tile: int
):
    monkeypatch.setattr(cpu_attention, "_TILE", tile)
    given = asked(dtype)
    assert is_for_tiles(*given)
    exact = [row.detach().double().requires_grad_() for row in given]
    arriving = torch.randn(2, 4, 600, 16, generator=torch.Generator().manual_seed(1)).to(dtype)

    def answers(rows: list[torch.Tensor], result: torch.Tensor) -> list[torch.Tensor]:
        return [result, *torch.autograd.grad(result, rows, arriving.to(result.dtype))]

    mine = answers(given, attend(*given, PreparedAttention()))
    kernel, right = (answers(rows, F.scaled_dot_product_attention(*rows, enable_gqa=True)) for rows in (given, exact))
    for found, usual, wanted in zip(mine, kernel, right, strict=True):
        assert found.dtype == dtype and found.shape == wanted.shape
        off, allowed = ((answer.double() - wanted).norm() / wanted.norm() for answer in (found, usual))
        assert off < 2 * allowed < 0.02


def test_mixed_precision_leaves_scores_alone():
    given = asked(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = attend_in_tiles(*given)
    assert torch.equal(mixed, attend_in_tiles(*given))


def test_no_scores_are_kept_for_the_backward_pass():
    with allocated() as found:
        kept = attend_in_tiles(*asked(torch.float32))
    inputs = 4 * 2 * 16 * (600 * 4 + 2 * 520 * 2)
    assert found[1] < inputs + 2 * kept.numel() * 4 < 4 * 2 * 4 * 600 * 520


def test_where_the_kernel_is_left_to_it():
    given = asked(torch.float32)
    assert is_for_tiles(*given)
    assert not is_for_tiles(*asked(torch.float32, 100, 100))
    assert not is_for_tiles(*asked(torch.float64))
    with torch.no_grad():
        assert not is_for_tiles(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_for_tiles(*given)
    with Ledger():
        assert not is_for_tiles(*given)
