"""The likelihood of targets is the cross-entropy of the logits, gradients included, and the logits are never there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.models.tiny import build, tokens
from unmask.models import fused_nll
from unmask.models.adapters import LoraSettings, attach_lora
from unmask.models.fused_nll import Head, token_nll
from unmask.registry import FAMILIES
from unmask.training.rehearsal import Ledger

N, D, V = 23, 8, 37
TILES = [(2**21, 1024), (64, 5), (1, 1)]


def drawn(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weights, targets, some more than once, and factors of all signs."""
    torch.manual_seed(0)
    factor = torch.linspace(-1, 2, N)
    return (
        torch.randn(N, D).to(dtype),
        torch.randn(V, D).to(dtype),
        torch.randint(0, V, (N,)),
        factor.where(factor > -0.5, 0),
    )


def by_definition(
    hidden: Tensor, weight: Tensor, targets: Tensor, factor: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Likelihoods and gradients out of whole logits, in float64."""
    hidden, weight = (part.detach().double().requires_grad_() for part in (hidden, weight))
    nll = F.cross_entropy(scale * hidden @ weight.T, targets, reduction="none")
    (nll * factor).sum().backward()
    return nll.detach(), hidden.grad, weight.grad


def ours(
    hidden: Tensor, weight: Tensor, targets: Tensor, factor: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by the function under test."""
    hidden, weight = (part.detach().requires_grad_() for part in (hidden, weight))
    nll = token_nll(hidden, weight, targets, scale)
    (nll * factor).sum().backward()
    assert nll.dtype == torch.float32 and hidden.grad.dtype == hidden.dtype and weight.grad.dtype == weight.dtype
    return nll.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_it_is_the_cross_entropy(monkeypatch, tile: tuple[int, int], dtype: torch.dtype, scale: float):
    monkeypatch.setattr(fused_nll, "TILE_CPU", tile)
    given = drawn(dtype)
    for found, exact in zip(ours(*given, scale), by_definition(*given, scale), strict=True):
        torch.testing.assert_close(found.double(), exact, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("tile", TILES)
def test_in_bfloat16_it_is_as_near_as_whole_logits(monkeypatch, tile: tuple[int, int]):
    monkeypatch.setattr(fused_nll, "TILE_CPU", tile)
    hidden, weight, targets, factor = drawn(torch.bfloat16)
    # one target nearly everywhere: what is added up in bfloat16 would stop growing
    targets[3:] = 11
    exact = by_definition(hidden, weight, targets, factor)
    plain = [part.detach().requires_grad_() for part in (hidden, weight)]
    nll = F.cross_entropy((plain[0] @ plain[1].T).float(), targets, reduction="none")
    (nll * factor).sum().backward()
    for found, usual, true in zip(
        ours(hidden, weight, targets, factor), (nll.detach(), plain[0].grad, plain[1].grad), exact, strict=True
    ):
        assert (found - true).norm() <= 1.5 * (usual - true).norm() + 1e-3 * true.norm()


def test_mixed_precision_multiplies_in_its_own_type():
    hidden, weight, targets, factor = drawn(torch.float32)
    head = Head(D, V, bias=False)
    head.weight.data.copy_(weight)
    hidden.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nll = head(hidden, targets)
    (nll * factor).sum().backward()
    exact = by_definition(hidden, weight, targets, factor)
    half = token_nll(hidden.detach().bfloat16(), weight.bfloat16(), targets)
    assert torch.equal(nll, half), "the products of bfloat16"
    assert hidden.grad.dtype == head.weight.grad.dtype == torch.float32
    for found, true in zip((hidden.grad, head.weight.grad), exact[1:], strict=True):
        assert (found - true).norm() < 0.02 * true.norm()


def test_logits_of_any_size_have_a_likelihood():
    hidden, weight, targets, _ = drawn(torch.float32)
    for factor in (1e3, 1e-6):
        found = token_nll(hidden * factor, weight, targets)
        exact = F.cross_entropy(factor * hidden.double() @ weight.double().T, targets, reduction="none")
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-3)


def test_what_is_frozen_gets_no_gradient():
    hidden, weight, targets, factor = drawn(torch.float32)
    with Ledger([hidden, weight]) as ledger:
        nll = token_nll(hidden.requires_grad_(), weight, targets)
        (nll * factor).sum().backward()
    assert weight.grad is None and hidden.grad is not None and ledger.alive > 0
    twin = weight.clone().requires_grad_()
    token_nll(hidden.detach(), twin, targets).sum().backward()
    torch.testing.assert_close(twin.grad, by_definition(hidden, weight, targets, torch.ones(N))[2].float())


def test_nothing_of_positions_times_vocabulary_is_made(monkeypatch):
    n, vocabulary, width = 96, 4096, 16
    monkeypatch.setattr(fused_nll, "TILE_CPU", (2**13, 32))
    hidden, weight = torch.randn(n, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.randint(0, vocabulary, (n,))
    with Ledger([hidden, weight]) as ledger:
        token_nll(hidden, weight, targets).sum().backward()
    # the weights' gradient and a few tiles of 32 KiB; the logits would be 1.5 MiB
    assert ledger.together < weight.nbytes + 8 * 2**15 < n * vocabulary * 4


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("adapted", [{"target_modules": ["head"]}, {"modules_to_save": ["head"]}, {}])
def test_adapters_learn_as_from_whole_logits(tmp_path, family: str, adapted: dict):
    model = build(tmp_path, FAMILIES.get(family))
    attach_lora(model, LoraSettings(r=2, lora_dropout=0.0, **adapted))
    ids, at, wanted = tokens(), torch.tensor([1, 5, 23, 7]), torch.tensor([3, 4, 3, 9])
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    found = torch.autograd.grad(model(ids, logits_at=at, targets=wanted).nll.sum(), learned)
    logits = model(ids).logits.flatten(0, 1)[at]
    exact = torch.autograd.grad(F.cross_entropy(logits, wanted, reduction="sum"), learned)
    for mine, other in zip(found, exact, strict=True):
        assert (mine - other).norm() <= 1e-5 * other.norm()
