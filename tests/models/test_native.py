"""A small network in one call of C++ computes what its layers compute, row by row, whatever it is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.tiny import build, tokens
from unmask.generation.proposal import Rules, propose
from unmask.lm import load
from unmask.models.adapters import LoraSettings, attach_lora
from unmask.models.compiling import compile_layers
from unmask.models.families import ModelFamily
from unmask.models.linear import Linear
from unmask.models.native import library as compiled
from unmask.models.native import trunk as trunk_module
from unmask.models.native.judge import NativeJudge
from unmask.models.native.trunk import NativeTrunk
from unmask.models.native.weight import NativeWeight
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES
from unmask.types import AttentionSpec

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="no compiler of C++")


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that were computed in one call."""
    seen: list[tuple[int, ...]] = []
    call = NativeTrunk.__call__

    def counted(self: NativeTrunk, tokens_BL: Tensor, *others: Any) -> Tensor:
        seen.append(tuple(tokens_BL.shape))
        return call(self, tokens_BL, *others)

    monkeypatch.setattr(NativeTrunk, "__call__", counted)
    return seen


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def native(folder: Path, family: ModelFamily | None = None, **changes: Any) -> DiffusionModel:
    """A model that offers it, without torch.compile's own part of compiling."""
    model = build(folder, family or FAMILIES.get("llada"), **changes)
    model.trunk.is_native = True
    return model


def logits(model: DiffusionModel, ids_BL: Tensor, **asked: Any) -> Tensor:
    held = model.packed()
    with torch.inference_mode():
        found = model(ids_BL, **asked).logits
    del held
    assert found is not None
    return found


def exact(model: DiffusionModel, ids_BL: Tensor, **asked: Any) -> Tensor:
    """In double precision, layer by layer."""
    double = build_like(model).double()
    with torch.no_grad():
        found = double(ids_BL, **asked).logits
    assert found is not None
    return found


def build_like(model: DiffusionModel) -> DiffusionModel:
    other = DiffusionModel(model.facts)
    other.load_state_dict(model.state_dict())
    return other


def close(found: Tensor, expected: Tensor) -> None:
    # of numbers of size one and more; PyTorch's own float32 is as far away
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [16, 31, 32, 33, 70])
@pytest.mark.parametrize("name", FAMILIES.names())
def test_every_family_of_this_kind(name: str, length: int, tmp_path: Path, used: list[tuple[int, ...]]) -> None:
    family = FAMILIES.get(name)
    model, ids_BL = native(tmp_path, family), tokens(3, length, 40)
    close(logits(model, ids_BL), exact(model, ids_BL))
    at_n = torch.tensor([1, length - 1, 2 * length, 2 * length + 9, 2 * length + 3])
    close(logits(model, ids_BL, logits_at=at_n), exact(model, ids_BL, logits_at=at_n))
    sees_all = family.attention != "causal" and "Sparse" not in type(model.trunk).__name__
    is_whole = model.facts.shape.rotary_share == 1.0
    assert bool(used) == (sees_all and is_whole), (used, family.attention)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"n_heads": 2, "n_kv_heads": 1, "d_model": 40, "mlp_hidden_size": 37}, id="odd sizes"),
        pytest.param({"n_heads": 4, "n_kv_heads": 2, "d_model": 48, "mlp_hidden_size": 130}, id="shared keys"),
        pytest.param({"n_heads": 1, "n_kv_heads": 1, "d_model": 6, "mlp_hidden_size": 3}, id="one small head"),
        pytest.param({"n_layers": 1}, id="one layer"),
        pytest.param({"input_emb_norm": True}, id="scaled embeddings"),
        pytest.param({"vocab_size": 9000, "embedding_size": 9000}, id="many words"),
        pytest.param({"vocab_size": 9000, "embedding_size": 9000, "input_emb_norm": True}, id="many scaled words"),
    ],
)
def test_any_size(changes: dict[str, Any], tmp_path: Path, used: list[tuple[int, ...]]) -> None:
    model, ids_BL = native(tmp_path, **changes), tokens(2, 45)
    close(logits(model, ids_BL), exact(model, ids_BL))
    assert used == [(2, 45)]


def test_places_in_any_order_and_number(tmp_path: Path, used: list[tuple[int, ...]]) -> None:
    model, ids_BL, source = native(tmp_path), tokens(3, 50), torch.Generator().manual_seed(0)
    every = exact(model, ids_BL).flatten(0, 1)
    for count in (1, 2, 31, 32, 33, 64, 100, 150):
        at_n = torch.randint(0, 150, (count,), generator=source)
        close(logits(model, ids_BL, logits_at=at_n), every[at_n])
    in_one_row = torch.arange(50, 97)
    close(logits(model, ids_BL, logits_at=in_one_row), every[in_one_row])
    assert len(used) == 9


def masks() -> dict[str, AttentionSpec]:
    column_L = torch.arange(60)
    padded_BL = -(column_L >= torch.tensor([60, 41, 17])[:, None]).long()
    return {
        "padding": AttentionSpec(document_BL=padded_BL, packed=False),
        "the same of all rows": AttentionSpec(document_BL=padded_BL[1:2].expand(3, -1), packed=False),
        "blocks": AttentionSpec("block_causal", block_BL=(column_L // 8)[None]),
        "blocks and padding": AttentionSpec("block_causal", padded_BL, packed=False, block_BL=(column_L // 8)[None]),
        "a window": AttentionSpec(window=5),
    }


@pytest.mark.parametrize("kind", masks())
def test_who_sees_whom(kind: str, tmp_path: Path, used: list[tuple[int, ...]]) -> None:
    model, ids_BL, spec = native(tmp_path), tokens(3, 60), masks()[kind]
    place = torch.arange(180)
    seen = place if spec.document_BL is None else place[(spec.document_BL == 0).flatten()]
    expected = exact(model, ids_BL, attention=spec).flatten(0, 1)
    close(logits(model, ids_BL, attention=spec).flatten(0, 1)[seen], expected[seen])
    close(logits(model, ids_BL, attention=spec, logits_at=seen[::3]), expected[seen[::3]])
    assert used == [(3, 60)] * 2


def test_who_sees_nobody_disturbs_nobody(tmp_path: Path) -> None:
    model, ids_BL = native(tmp_path), tokens(2, 40)
    nobody_BL = torch.zeros(2, 40, dtype=torch.int64)
    nobody_BL[1] = -1
    found = logits(model, ids_BL, attention=AttentionSpec(document_BL=nobody_BL, packed=False))
    assert found.isfinite().all()
    close(found[:1], exact(model, ids_BL[:1]))


def test_what_is_stored_is_what_layers_store(tmp_path: Path, used: list[tuple[int, ...]]) -> None:
    model, ids_BL = native(tmp_path), tokens(3, 64)

    def decoded(model: DiffusionModel, ask: Any) -> tuple[list[Tensor], Any]:
        cache, found = model.new_cache(3, 80), []
        found.append(ask(model, ids_BL, cache=cache))
        for first, last in ((20, 52), (20, 52), (10, 27)):
            cache.place(first, 64)
            found.append(ask(model, ids_BL[:, first:last] + first % 3, cache=cache))
        rows = torch.tensor([2, 0])
        cache.place(30, 50, rows=rows)
        found.append(ask(model, ids_BL[rows, :20] + 2, cache=cache, logits_at=torch.tensor([3, 19, 20, 25])))
        columns_BW = torch.tensor([[*range(8, 24)], [*range(40, 56)]])
        cache.place(columns_BW, 64, rows=rows)
        found.append(ask(model, ids_BL[rows, 5:21], cache=cache))
        cache.place(60, 64)
        found.append(ask(model, ids_BL[:, :20], cache=cache))
        return found, cache

    with torch.no_grad():
        expected, double = decoded(build_like(model).double(), lambda model, ids, **asked: model(ids, **asked).logits)
    found, cache = decoded(model, logits)
    for mine, right in zip(found, expected, strict=True):
        close(mine, right)
    close(cache.keys[..., :80, :], double.keys)
    close(cache.values[..., :80, :], double.values)
    assert (cache.length, cache.start, cache.computed) == (double.length, double.start, double.computed)
    assert len(used) == len(found)


def test_more_columns_than_there_are_is_refused(tmp_path: Path) -> None:
    model = native(tmp_path)
    cache = model.new_cache(2, 20)
    with pytest.raises(ValueError, match="do not fit"):
        logits(model, tokens(2, 21), cache=cache)


def test_a_row_has_the_same_bits_in_any_batch_and_on_any_number_of_threads(tmp_path: Path) -> None:
    model, ids_BL = native(tmp_path), tokens(5, 50)
    torch.set_num_threads(1)
    together = logits(model, ids_BL)
    torch.set_num_threads(3)
    assert torch.equal(logits(model, ids_BL), together)
    # the head, a product of PyTorch's, may differ: what is before it may not
    held = model.packed()
    with torch.inference_mode():
        every = model.trunk(ids_BL)
        for row in range(5):
            assert torch.equal(model.trunk(ids_BL[row : row + 1]), every[row : row + 1])
        part = model.trunk(ids_BL[2:], at=torch.tensor([60, 7, 149]))
        assert torch.equal(part, every[2:].flatten(0, 1)[[60, 7, 149]])
    assert held


def test_large_numbers_and_none_that_is_not_one(tmp_path: Path) -> None:
    model, ids_BL = native(tmp_path), tokens(2, 32)
    with torch.no_grad():
        for layer in model.trunk.layers:
            layer.attention.q_proj.weight.mul_(60)
            layer.mlp.gate_proj.weight.mul_(300)
    found, expected = logits(model, ids_BL), exact(model, ids_BL)
    assert found.isfinite().all()
    with torch.no_grad():
        plain = model(ids_BL).logits
    # scores of a thousand: rounding decides much, in PyTorch too
    assert (found - expected).abs().max() <= 10 * (plain - expected).abs().max() + 1e-3
    with torch.no_grad():
        model.trunk.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    assert logits(model, ids_BL).isnan().any()


@pytest.mark.parametrize(
    "part",
    ["embed", "norm", *(f"layers.0.{part}" for part in ("attention_norm", "attention.k_proj", "mlp_norm"))]
    + ["layers.0.mlp.up_proj", "layers.0.attention.o_proj"],
)
def test_changed_weights_are_read(part: str, tmp_path: Path, used: list[tuple[int, ...]]) -> None:
    model, ids_BL = native(tmp_path), tokens(2, 32)
    held = model.packed()
    with torch.inference_mode():
        model(ids_BL)
    with torch.no_grad():
        model.trunk.get_submodule(part).weight.mul_(1.5)
    with torch.inference_mode():
        after = model(ids_BL).logits
    assert len(used) == 1
    close(after, exact(model, ids_BL))
    assert held


def test_it_is_made_once_and_in_use_while_it_is_held(
    tmp_path: Path, used: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    make = NativeTrunk.__init__
    monkeypatch.setattr(NativeTrunk, "__init__", lambda self, trunk: (made.append(self), make(self, trunk))[1])
    model, ids_BL = native(tmp_path), tokens(2, 32)
    first = logits(model, ids_BL)
    with torch.inference_mode():
        model(ids_BL)  # nobody holds it
    assert len(used) == len(made) == 1
    assert torch.equal(logits(model, ids_BL), first) and (len(used), len(made)) == (2, 1)
    with torch.no_grad():
        model.trunk.layers[1].mlp.down_proj.weight.mul_(2)
    close(logits(model, ids_BL), exact(model, ids_BL))
    assert (len(used), len(made)) == (3, 2)


def test_what_is_written_behind_the_back_of_autograd_is_read_by_the_next_text(
    tmp_path: Path, used: list[tuple[int, ...]]
) -> None:
    model, ids_BL = native(tmp_path), tokens(2, 32)
    logits(model, ids_BL)
    for part in ("layers.1.mlp.down_proj.weight", "layers.0.attention_norm.weight", "embed.weight"):
        model.trunk.get_parameter(part).data.mul_(1.5)
        close(logits(model, ids_BL), exact(model, ids_BL))
    assert len(used) == 4


def test_nothing_may_be_asked_for_but_that_keys_are_stored(tmp_path: Path, used: list[tuple[int, ...]]) -> None:
    model, ids_BL = native(tmp_path), tokens(2, 32)
    caches = [model.new_cache(2, 32) for _ in range(2)]
    none = logits(model, ids_BL, cache=caches[0], logits_at=torch.empty(0, dtype=torch.int64))
    logits(model, ids_BL, cache=caches[1])
    assert none.shape == (0, model.facts.shape.vocab_size) and len(used) == 2
    assert torch.equal(caches[0].values, caches[1].values) and torch.equal(caches[0].keys, caches[1].keys)


def test_a_weight_that_is_gone_is_not_read(tmp_path: Path, used: list[tuple[int, ...]]) -> None:
    model, ids_BL = native(tmp_path), tokens(2, 32)
    held, linear = model.packed(), model.trunk.layers[0].mlp.up_proj
    # as parametrisations leave it
    weight = linear.weight.detach()
    del linear.weight
    linear.weight = weight
    with torch.inference_mode():
        assert model(ids_BL).logits.isfinite().all()
    assert held and not used


def test_not_where_something_listens_or_is_added(tmp_path: Path, used: list[tuple[int, ...]]) -> None:
    model = native(tmp_path / "heard")
    heard: list[int] = []
    model.trunk.layers[1].mlp.register_forward_hook(lambda *_: heard.append(1))
    logits(model, tokens(2, 32))
    adapted = native(tmp_path / "adapted")
    attach_lora(adapted, LoraSettings(r=2))
    logits(adapted, tokens(2, 32))
    listening = native(tmp_path / "listening")
    listening.get_input_embeddings().register_forward_hook(lambda *_: heard.append(2))
    logits(listening, tokens(2, 32))
    assert {*heard} == {1, 2} and not used


def test_ids_that_the_model_has_no_row_for_are_refused(tmp_path: Path, used: list[tuple[int, ...]]) -> None:
    model, ids_BL = native(tmp_path), tokens(2, 32)
    for wrong in (-1, model.facts.shape.vocab_size, 2**40):
        ids_BL[1, 31] = wrong
        with pytest.raises(IndexError, match=f"0 to {model.facts.shape.vocab_size - 1}"):
            logits(model, ids_BL)
    assert len(used) == 3


def test_ids_may_be_a_part_of_something(tmp_path: Path, used: list[tuple[int, ...]]) -> None:
    model, ids_BL = native(tmp_path), tokens(3, 90)
    part = ids_BL[::2, 7:87:2]
    assert torch.equal(logits(model, part), logits(model, part.clone())) and len(used) == 2


def test_only_where_it_pays(tmp_path: Path, used: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk_module, "MOST", 2**20)
    model = native(tmp_path / "small")
    lanes = compiled.library().lanes()
    logits(model, tokens(2, lanes // 2 - 1))
    model(tokens(2, 32))  # gradients
    logits(build(tmp_path / "plain"), tokens(2, 32))  # not compiled
    wide = native(tmp_path / "wide", d_model=256, n_heads=4, n_kv_heads=4, mlp_hidden_size=512)
    logits(wide, tokens(2, 32))
    logits(native(tmp_path / "half").to(torch.bfloat16), tokens(2, 32))
    assert not used


def test_larger_layers_of_few_rows_are_left_to_products_on_many_threads(
    tmp_path: Path, used: list[tuple[int, ...]]
) -> None:
    model = native(tmp_path, d_model=256, n_heads=4, n_kv_heads=4, mlp_hidden_size=512)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        close(logits(model, tokens(2, 32)), exact(model, tokens(2, 32)))
    assert len(used) == 2


def test_without_a_compiler_the_layers_compute(
    tmp_path: Path, used: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "compiler"
    broken.write_text("#!/bin/sh\necho no such vectors >&2\nexit 1\n")
    broken.chmod(0o755)
    for named in (str(broken), str(tmp_path / "none"), shutil.which("true")):
        compiled.library.cache_clear()
        monkeypatch.setenv("CXX", str(named))
        model = native(tmp_path / "model")
        close(logits(model, tokens(2, 32)), exact(model, tokens(2, 32)))
    compiled.library.cache_clear()
    assert not used
    said = [message.partition(": ")[2].rpartition(": ")[2] for message in caplog.messages]
    assert said == ["no such vectors", "nothing"] and str(broken) in caplog.messages[0]


@pytest.mark.parametrize("words", [3, 16, 60, 515, 5000])
def test_judging_is_what_the_loop_does_by_itself(words: int) -> None:
    source = torch.Generator().manual_seed(words)
    logits_nV = 4 * torch.randn(37, words, generator=source)
    logits_nV[5, 1:] = logits_nV[5, 1]  # several are the highest
    logits_nV[6] = -torch.inf
    logits_nV[7, 1] = 80.0
    logits_nV[8, 2] = -torch.inf
    logits_nV[9] *= 1000
    pending_BL, judge = torch.ones(1, 37, dtype=torch.bool), NativeJudge()
    for never in ((), (0,), (2, 0)):
        mine, right, exact = (
            propose(logits_nV, pending_BL, Rules(never, **way)) for way in ({"judge": judge}, {}, {"precise": True})
        )
        assert torch.equal(mine.predicted_BL, right.predicted_BL)
        there = (exact.log_prob_BL > -1e30).nonzero()[:, 1]
        torch.testing.assert_close(
            mine.log_prob_BL[0, there].double(), exact.log_prob_BL[0, there], rtol=1e-5, atol=2e-6
        )
        assert torch.equal(mine.log_prob_BL[0, 6:7], right.log_prob_BL[0, 6:7])
    logits_nV[3, words // 2] = torch.nan
    mine = propose(logits_nV, pending_BL, Rules((0,), judge=judge))
    assert mine.log_prob_BL.isnan()[0].nonzero().flatten().tolist() == [3]


def test_judging_on_several_threads_makes_no_difference() -> None:
    logits_nV = torch.randn(41, 30_000, generator=torch.Generator().manual_seed(0))
    judge, found = NativeJudge(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(judge(logits_nV, torch.ones(1, 41, dtype=torch.bool), (5, 6)))
    assert found[0] is not None and found[1] is not None
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_only_places_that_are_pending_are_judged() -> None:
    source = torch.Generator().manual_seed(0)
    is_pending_BL = torch.rand(4, 33, generator=source).repeat(1, 2)[:, ::2] < 0.4
    logits_nV = torch.randn(int(is_pending_BL.sum()), 50, generator=source)
    mine, right = (propose(logits_nV, is_pending_BL, Rules((7,), judge=judge)) for judge in (NativeJudge(), None))
    assert torch.equal(mine.predicted_BL, right.predicted_BL)
    torch.testing.assert_close(mine.log_prob_BL, right.log_prob_BL)
    assert NativeJudge()(logits_nV[:0], torch.zeros(2, 3, dtype=torch.bool), ()) is not None
    for rows in (len(logits_nV) - 1, 0):
        with pytest.raises(ValueError, match=f"{rows} rows of logits for {len(logits_nV)} places"):
            propose(logits_nV[:rows], is_pending_BL, Rules((7,), judge=NativeJudge()))


def test_what_is_drawn_or_filtered_is_not_judged() -> None:
    def nobody(*_: Any) -> None:
        raise AssertionError

    logits_nV, pending_BL = torch.randn(4, 9), torch.ones(1, 4, dtype=torch.bool)
    ways: list[dict[str, Any]] = [
        {"temperature": 1.0},
        {"among": (3, None)},
        {"among": (None, 0.5)},
        {"last": (1,)},
        {"precise": True},
    ]
    for way in ways:
        propose(logits_nV, pending_BL, Rules((0,), judge=nobody, **way), uniform_n=torch.rand(4, dtype=torch.float64))
    with pytest.raises(AssertionError):
        propose(logits_nV, pending_BL, Rules((0,), judge=nobody))
    assert all(NativeJudge()(logits_nV.to(dtype), pending_BL, ()) is None for dtype in (torch.float64, torch.bfloat16))


def test_scores_that_are_no_numbers_are_not_hidden(tmp_path: Path) -> None:
    model = native(tmp_path)
    with torch.no_grad():
        model.trunk.layers[1].attention.q_proj.weight[0, 0] = float("nan")
    assert logits(model, tokens(2, 32)).isnan().all(-1).any()


@pytest.mark.parametrize("shape", [(1, 3, 5), (7, 12, 33), (130, 64, 100), (2, 1, 1)])
def test_a_weight_alone(shape: tuple[int, int, int]) -> None:
    rows, depth, count = shape
    made, x = Linear(depth, count, bias=True), torch.randn(2, rows, depth)
    held = NativeWeight(made)
    exact = torch.nn.functional.linear(x.double(), made.weight.double(), made.bias.double())
    torch.testing.assert_close(held.product(x, made.bias.detach()).double(), exact, rtol=1e-5, atol=1e-5)
    assert torch.equal(held.product(x[1:, :1]), held.product(x)[1:, :1])
    assert held.is_current()
    with torch.no_grad():
        made.weight += 1
    assert not held.is_current()


WAYS: list[dict[str, Any]] = [
    {},
    {"cache": "prefix"},
    {"cache": "dual", "block_size": 20},
    {"cache": "dual", "block_size": 32, "strategy": "threshold", "threshold": 0.05},
    {"guidance_scale": 0.7, "block_size": 32},
    {"temperature": 1.0, "cache": "dual", "cache_interval": 3, "block_size": 32},
    {"strategy": "revoke"},
]


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_the_same_text_is_written(way: int, tmp_path: Path, used: list[tuple[int, ...]]) -> None:
    from tests import tiny

    folder = tiny.write_checkpoint(tmp_path / "model")
    prompts = [[5, 6, 7] * 5, [9, 8, 7, 6, 5, 4, 3, 2], [11] * 21]
    settings = {"max_new_tokens": 64, "block_size": 64, "steps": 32, "seed": 3, **WAYS[way]}
    lm, texts = load(folder, device="cpu"), []
    for is_native in (False, True):
        lm.model.trunk.is_native = lm.model.head.is_native = is_native
        texts.append([out.token_ids for out in lm.generate(prompts, **settings)])
        assert bool(used) == is_native
    assert texts[0] == texts[1]


def test_compiling_asks_for_it(tmp_path: Path) -> None:
    model = build(tmp_path, FAMILIES.get("llada"))
    compile_layers(model, backend="aot_eager")
    assert not model.trunk.is_native
    compile_layers(model)
    assert model.trunk.is_native
