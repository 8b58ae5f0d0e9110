"""Packed weights give what the weights give, and only while they are held and the weights are as they were."""

import copy
import gc
import pickle
from pathlib import Path

import pytest
import torch

from tests.tiny import write_checkpoint
from unmask.models import packed
from unmask.models.checkpoints import load_model
from unmask.models.linear import Linear, pack

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")),
    reason="this PyTorch has no oneDNN",
)


def layer(dtype: torch.dtype = torch.float32, bias: bool = False) -> Linear:
    made = Linear(96, 200, bias=bias).to(dtype)
    torch.nn.init.normal_(made.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return made


def product_of(made: Linear, rows: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return made(rows)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of what went through packed weights."""
    seen: list[int] = []
    product = packed.PackedWeight.product

    def counted(self: packed.PackedWeight, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        seen.append(len(x))
        return product(self, x, bias)

    monkeypatch.setattr(packed.PackedWeight, "product", counted)
    return seen


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [2, 3, 17, 64, 130])
def test_the_same_bits(rows: int, dtype: torch.dtype, bias: bool, used: list[int]) -> None:
    made, x = layer(dtype, bias), torch.randn(rows, 96, generator=torch.Generator().manual_seed(1)).to(dtype)
    plain = product_of(made, x)
    held = pack(made)
    assert torch.equal(product_of(made, x), plain)
    assert len(held) == 1
    assert used == [rows]


def test_one_row_is_right_up_to_rounding(used: list[int]) -> None:
    made, x = layer(), torch.randn(1, 96, generator=torch.Generator().manual_seed(1))
    exact = x.double() @ made.weight.detach().double().T
    held = pack(made)
    torch.testing.assert_close(product_of(made, x).double(), exact, rtol=1e-5, atol=1e-5)
    assert used
    del held


def test_only_while_it_is_held(used: list[int]) -> None:
    made, x = layer(), torch.ones(4, 96)
    held = pack(made)
    again = pack(made)
    assert again[0] is held[0]
    product_of(made, x)
    del held, again
    gc.collect()
    product_of(made, x)
    assert used == [4]


def test_a_changed_weight_is_not_read_from_its_copy(used: list[int]) -> None:
    made, x = layer(), torch.ones(4, 96)
    held = pack(made)
    before = product_of(made, x)
    with torch.inference_mode():
        made.weight.mul_(2)
    assert torch.equal(product_of(made, x), 2 * before)
    made.weight = torch.nn.Parameter(made.weight.detach().clone())
    product_of(made, x)
    made.to(torch.bfloat16)
    product_of(made, x.bfloat16())
    assert used == [4]
    assert not held[0].copy.is_current()


def test_training_and_other_types_do_without(used: list[int]) -> None:
    made, x = layer(), torch.ones(4, 96)
    held = pack(made)
    made(x).sum().backward()
    assert made.weight.grad is not None
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert made(x).dtype == torch.bfloat16
    assert used == []
    assert pack(layer(torch.float64)) == []
    del held


def test_a_weight_that_is_elsewhere_has_none() -> None:
    made = layer()
    made.weight.data = torch.empty(0)
    assert pack(made) == []


def test_copies_of_a_layer_have_none(used: list[int]) -> None:
    made, x = layer(), torch.ones(4, 96)
    held = pack(made)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        product_of(other, x)
    assert used == []
    product_of(made, x)
    assert used == [4]
    del held


def test_the_head_first_then_what_there_is_room_for(tmp_path: Path) -> None:
    model = load_model(write_checkpoint(tmp_path / "tiny"))
    size = {name: layer.weight.numel() * 4 for name, layer in model.named_modules() if isinstance(layer, Linear)}
    whole = pack(model)
    assert sum(size.values()) == sum(offer.size for offer in offered(model))
    assert len(whole) == len(offered(model))
    only = [loan.copy for loan in pack(model, most=size["head"]) if isinstance(loan.copy, packed.PackedWeight)]
    assert [copy.linears for copy in only] == [(model.head,)]
    assert not any(isinstance(loan.copy, packed.PackedWeight) for loan in pack(model, most=min(size.values()) - 1))


def offered(model: torch.nn.Module) -> list[packed.Offer]:
    """All copies that a model's parts offer, each weight in one of them."""
    offers = [offer for module in model.modules() for offer in getattr(module, "offers", list)()]
    together = {id(linear) for offer in offers if len(offer.linears) > 1 for linear in offer.linears}
    return [offer for offer in offers if len(offer.linears) != 1 or id(offer.linears[0]) not in together]
