"""A layer's two parts, out of copies of its weights, give what the layer gives, and only while the copies fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny import build, tokens
from unmask.models import packed_layer
from unmask.models.packed import can_be_packed
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES

pytestmark = pytest.mark.skipif(not can_be_packed([torch.ones(2, 2)]), reason="this PyTorch has no oneDNN")


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which parts were computed with copies."""
    seen: list[str] = []
    for part in (packed_layer.Asking, packed_layer.Answering):
        call = part.__call__

        def counted(self: Any, *inputs: Any, name: str = part.__name__, call: Any = call) -> Any:
            seen.append(name)
            return call(self, *inputs)

        monkeypatch.setattr(part, "__call__", counted)
    return seen


@pytest.mark.parametrize(
    "at",
    [
        pytest.param([3, 4, 5, 12 + 3, 12 + 4, 12 + 5], id="as many in each row, side by side"),
        pytest.param([2, 9, 12 + 0, 12 + 11], id="as many in each row"),
        pytest.param([5, 4, 12 + 8, 12 + 6], id="in any order"),
        pytest.param([4, 5, 12 + 4], id="more in one row"),
        pytest.param([4, 5, 6, 7], id="in one row"),
        pytest.param([12 + 4, 5], id="rows in another order"),
        pytest.param([0, 11, 12, 23, 23], id="one of them twice"),
    ],
)
@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("is_packed", [False, True])
def test_logits_at_some_places(at: list[int], is_padded: bool, is_packed: bool, tmp_path: Path) -> None:
    model, ids_BL, at_n = build(tmp_path), tokens(2, 12), torch.tensor(at)
    mask_BL = torch.ones(2, 12, dtype=torch.int64)
    mask_BL[1, 9:] = int(not is_padded)
    everywhere = logits(model, ids_BL, attention_mask=mask_BL).flatten(0, 1)
    held = model.packed() if is_packed else []
    found = logits(model, ids_BL, attention_mask=mask_BL, logits_at=at_n)
    torch.testing.assert_close(found, everywhere[at_n], rtol=1e-4, atol=1e-4)
    del held


def logits(model: DiffusionModel, ids_BL: torch.Tensor, **asked: Any) -> torch.Tensor:
    with torch.inference_mode():
        found = model(ids_BL, **asked).logits
    assert found is not None
    return found


@pytest.mark.parametrize("name", FAMILIES.names())
def test_every_family_gives_the_same(name: str, tmp_path: Path, used: list[str]) -> None:
    model, ids_BL = build(tmp_path, FAMILIES.get(name)), tokens(3, 9)
    at_n = torch.tensor([1, 4, 9 + 2, 9 + 3, 18 + 7, 18 + 8])
    plain, plain_n = logits(model, ids_BL), logits(model, ids_BL, logits_at=at_n)
    assert used == []
    held = model.packed()
    torch.testing.assert_close(logits(model, ids_BL), plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(model, ids_BL, logits_at=at_n), plain_n, rtol=1e-4, atol=1e-4)
    assert "Asking" in used
    del held


def test_a_cache_is_written_and_read_as_without(tmp_path: Path, used: list[str]) -> None:
    model, ids_BL = build(tmp_path), tokens(2, 12)

    def decoded() -> torch.Tensor:
        cache, found = model.new_cache(2, 16), []
        for first, last in ((0, 12), (4, 8), (4, 8), (6, 10)):
            cache.place(first, 12)
            found.append(logits(model, ids_BL[:, first:last] + first % 3, cache=cache))
        cache.place(torch.tensor([[1, 5], [0, 7]]), 12)
        return torch.cat([*found, logits(model, ids_BL[:, :2], cache=cache)], 1)

    plain = decoded()
    held = model.packed()
    torch.testing.assert_close(decoded(), plain, rtol=1e-4, atol=1e-4)
    # a cache that was begun with copies is gone on with without them
    cache = model.new_cache(2, 16)
    logits(model, ids_BL, cache=cache)
    del held
    cache.place(4, 12)
    torch.testing.assert_close(logits(model, ids_BL[:, 4:8] + 1, cache=cache), plain[:, 12:16], rtol=1e-4, atol=1e-4)
    assert used


def test_the_same_bits_in_bfloat16(tmp_path: Path, used: list[str]) -> None:
    model, ids_BL = build(tmp_path).to(torch.bfloat16), tokens(2, 12)
    plain = logits(model, ids_BL)
    held = model.packed()
    assert torch.equal(logits(model, ids_BL), plain)
    assert used
    del held


@pytest.mark.parametrize("part", ["attention_norm", "attention.k_proj", "mlp_norm", "mlp.up_proj", "attention.o_proj"])
def test_changed_weights_are_read(part: str, tmp_path: Path) -> None:
    model, ids_BL = build(tmp_path), tokens(2, 12)
    held, before = model.packed(), logits(model, ids_BL)
    with torch.no_grad():
        model.trunk.layers[0].get_submodule(part).weight.mul_(1.5)
    after = logits(model, ids_BL)
    assert not torch.allclose(after, before, atol=1e-3)
    del held
    torch.testing.assert_close(after, logits(model, ids_BL), rtol=1e-4, atol=1e-4)


def test_not_where_something_is_learned_or_listens(tmp_path: Path, used: list[str]) -> None:
    model, ids_BL = build(tmp_path), tokens(2, 12)
    held = model.packed()
    model(ids_BL).logits.sum().backward()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        model(ids_BL)
    assert used == []
    del held
    heard: list[int] = []
    for layer in model.trunk.layers:
        for module in (layer.attention.q_proj, layer.mlp.down_proj):
            module.register_forward_hook(lambda *_: heard.append(1))
    held = model.packed()
    logits(model, ids_BL)
    assert used == [] and len(heard) == 2 * len(model.trunk.layers)
    del held


def test_double_precision_has_none(tmp_path: Path) -> None:
    assert build(tmp_path).double().packed() == []


def test_what_is_scored_meanwhile_has_the_bits_of_the_weights(tmp_path: Path) -> None:
    model, ids_BL = build(tmp_path), tokens(2, 12)
    with torch.no_grad():
        before = model(ids_BL).logits
        held = model.packed()
        assert torch.equal(model(ids_BL).logits, before)
    assert held
