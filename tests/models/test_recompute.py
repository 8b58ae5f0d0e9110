"""What is computed again in the backward pass: the same gradients, bit by bit, and no product twice that is kept."""

from __future__ import annotations

import weakref
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models.tiny import build, tokens
from unmask.diffusion.blocks import block_ids, two_stream
from unmask.models import attention, tiled
from unmask.models.adapters import LoraSettings, attach_lora
from unmask.models.layers import GatedMLP
from unmask.models.recompute import STRATEGIES
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES
from unmask.training.arguments import CheckpointingStrategy
from unmask.types import AttentionSpec

LENGTH = 20


def made(folder: Path, family: str, lora: bool) -> DiffusionModel:
    model = build(folder, FAMILIES.get(family))
    if lora:
        attach_lora(model, LoraSettings(r=4, lora_dropout=0.3))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1)
    return model.train()


def learned(model: DiffusionModel, strategy: str | None, *, bf16: bool, block: bool) -> dict[str, Tensor]:
    """Gradients by name, and the loss."""
    model.gradient_checkpointing_disable()
    if strategy is not None:
        model.gradient_checkpointing_enable(strategy=strategy)
    model.zero_grad()
    torch.manual_seed(7)  # of dropout
    fed, attention, positions = tokens(2, LENGTH), None, None
    if block:
        fed = tokens(2, 2 * LENGTH)
        attention = two_stream(block_ids(torch.arange(LENGTH)[None].expand(2, LENGTH), 4))
        positions = torch.arange(LENGTH).repeat(2).expand(2, 2 * LENGTH)
    at = torch.arange(0, 2 * LENGTH, 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(fed, attention=attention, positions=positions, logits_at=at, targets=at).nll.sum()
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return {**found, "loss": loss.detach()}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("family", "lora", "bf16", "block"),
    [
        ("llada", False, False, False),
        ("llada", True, True, True),
        ("dream", True, False, False),
        ("llada_moe", False, True, False),
        ("llada2", False, False, True),
        ("llada2", True, True, False),
    ],
)
def test_gradients_are_the_same_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, lora: bool, bf16: bool, block: bool, strategy: str
) -> None:
    for module in (attention, tiled):
        monkeypatch.setattr(module, "TILE", 7)  # several tiles in a short row
    model = made(tmp_path, family, lora)
    kept = learned(model, None, bf16=bf16, block=block)
    again = learned(model, strategy, bf16=bf16, block=block)
    assert kept.keys() == again.keys() and len(kept) > 5
    for name in kept:
        assert kept[name].equal(again[name]), name


class Calls(TorchDispatchMode):
    """How often each operation ran."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.of[func.name()] += 1
        return func(*args, **(kwargs or {}))

    @property
    def products(self) -> int:
        return sum(self.of[name] for name in ("aten::mm", "mkldnn::_linear_pointwise", "unmask::grouped_product"))


@pytest.mark.parametrize("family", ["llada", "llada_moe"])
def test_each_strategy_computes_again_what_it_says(tmp_path: Path, family: str) -> None:
    model = made(tmp_path, family, lora=False)
    calls: dict[str | None, Calls] = {}
    for strategy in (None, *STRATEGIES):
        with Calls() as calls[strategy]:
            learned(model, strategy, bf16=False, block=False)
    kept, whole = calls[None], calls["whole_layer"]
    attention = next(name for name in kept.of if "scaled_dot_product" in name and "backward" not in name)
    depth = len(model.trunk.layers)
    assert kept.of[attention] == depth and whole.of[attention] == 2 * depth
    assert calls["one_in_two"].of[attention] == depth + -(-depth // 2)
    # what is kept is handed back without a call; the others come again
    assert calls["selective"].of[attention] == depth
    assert calls["selective"].products == kept.products < whole.products
    norms = "aten::rsqrt"
    assert calls["selective"].of[norms] == whole.of[norms] == 2 * kept.of[norms] - 1  # all but the last one
    # the layer up to its MLP, then each half: only attention comes a third time
    assert calls["fine_grained"].of[attention] == 3 * depth
    assert calls["fine_grained"].of["aten::silu"] == whole.of["aten::silu"] == calls["selective"].of["aten::silu"]


def test_nothing_is_computed_again_where_nothing_is_learned(tmp_path: Path) -> None:
    model = made(tmp_path, "llada", lora=False)
    model.gradient_checkpointing_enable(strategy="fine_grained")
    fed, attention = tokens(2, LENGTH), AttentionSpec()
    with torch.no_grad():
        model(fed, attention=attention)
    model.eval()
    with Calls() as calls:
        model(fed, attention=attention).logits.sum().backward()
    # twice more each: neither silu nor its product with the other half is kept, whatever the strategy
    assert calls.of["aten::silu"] == 3 * len(model.trunk.layers)
    assert calls.of["aten::rsqrt"] == 2 * len(model.trunk.layers) + 1


class Held(TorchDispatchMode):
    """Shapes of what operations made and somebody still holds."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref[Any]] = []
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.made.append(weakref.ref(result.untyped_storage()))
            self.shapes.append(result.shape)
        return result

    def count(self, width: int) -> int:
        there = {id(storage()) for storage, shape in zip(self.made, self.shapes, strict=True) if shape[-1] == width}
        return len(there - {id(None)})


@pytest.mark.parametrize("lora", [False, True])
def test_of_a_gated_mlp_two_inner_tensors_are_kept(lora: bool) -> None:
    """Not the product of its halves; the gradients are those of the plain formula."""
    torch.manual_seed(0)
    mlp = GatedMLP(8, 24)
    weights = [weight.detach().clone().requires_grad_() for weight in mlp.parameters()]
    if lora:
        mlp.down_proj = torch.nn.Sequential(torch.nn.Dropout(0.0), mlp.down_proj)
    x = torch.randn(5, 8, requires_grad=True)
    with Held() as held:
        out = mlp(x)
    assert held.count(24) == 2
    gate, up, down = weights
    plain = (torch.nn.functional.silu(x @ gate.t()) * (x @ up.t())) @ down.t()
    wanted = torch.autograd.grad(plain.square().sum(), [x, *weights])
    found = torch.autograd.grad(out.square().sum(), [x, *mlp.parameters()])
    torch.testing.assert_close(found, wanted)


def test_the_command_line_knows_every_strategy() -> None:
    assert get_args(CheckpointingStrategy) == STRATEGIES
