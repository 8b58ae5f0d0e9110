"""Routers choose as the definition says, experts compute what a loop over tokens does, shapes that lie are refused."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from tests.models.tiny import on_meta, write_config
from unmask.errors import ModelError
from unmask.models.adapters import LoraSettings, attach_lora
from unmask.models.checkpoints import load_model
from unmask.models.moe import Router, SparseMLP, SparseShape
from unmask.models.streamed import forget
from unmask.registry import FAMILIES

BASE = {"vocab_size": 64, "width": 12, "layers": 2, "heads": 2, "kv_heads": 2, "mlp_width": 8, "max_length": 16}
LLADA2, LLADA_MOE = FAMILIES.get("llada2"), FAMILIES.get("llada_moe")


def shape(**changes: object) -> SparseShape:
    return SparseShape(**{**BASE, "experts": 6, "active": 2, "expert_width": 5, **changes})  # type: ignore[arg-type]


def filled(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.normal_(generator=generator)
    return module


def rows(count: int = 40, seed: int = 5) -> torch.Tensor:
    return torch.randn(count, BASE["width"], generator=torch.Generator().manual_seed(seed))


def best_experts(scores: torch.Tensor, of: SparseShape) -> set[int]:
    """By trying: all sets of groups, then all sets of experts in the best one."""
    size = of.experts // of.groups
    groups = [list(range(group * size, (group + 1) * size)) for group in range(of.groups)]
    worth = [max(float(scores[a] + scores[b]) for a, b in combinations(group, 2)) for group in groups]
    taken = max(combinations(range(of.groups), of.active_groups), key=lambda chosen: sum(worth[g] for g in chosen))
    open_to = [expert for group in taken for expert in groups[group]]
    return set(max(combinations(open_to, of.active), key=lambda chosen: sum(float(scores[e]) for e in chosen)))


@pytest.mark.parametrize(("groups", "active_groups"), [(1, 1), (4, 2), (3, 1)])
@pytest.mark.parametrize("normalised", [False, True])
def test_sigmoid_routers_choose_by_corrected_scores_and_weigh_by_plain_ones(groups, active_groups, normalised):
    of = shape(
        experts=12,
        active=3,
        scores="sigmoid",
        routing_bias=True,
        groups=groups,
        active_groups=active_groups,
        normalised=normalised,
        routed_scale=2.5,
    )
    router, x_nD = filled(Router(of)), rows()
    weight_nA, chosen_nA = router(x_nD)
    assert weight_nA.dtype == torch.float32 and chosen_nA.dtype == torch.int64
    for x, weights, chosen in zip(x_nD, weight_nA, chosen_nA, strict=True):
        plain = 1 / (1 + torch.exp(-(router.weight @ x)))
        assert set(chosen.tolist()) == best_experts((plain + router.expert_bias).detach(), of)
        wanted = plain[chosen] / (plain[chosen].sum() if normalised else 1)
        torch.testing.assert_close(weights, 2.5 * wanted)


def test_softmax_routers_weigh_by_probabilities_of_all_experts():
    router, x_nD = filled(Router(shape())), rows()
    weight_nA, chosen_nA = router(x_nD)
    for x, weights, chosen in zip(x_nD, weight_nA, chosen_nA, strict=True):
        probability = torch.exp(router.weight @ x) / torch.exp(router.weight @ x).sum()
        assert chosen.tolist() == probability.argsort(descending=True)[:2].tolist()
        torch.testing.assert_close(weights, probability[chosen])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_routers_compute_in_float32_whatever_comes_in(dtype: torch.dtype):
    router, x_nD = filled(Router(shape(scores="sigmoid", routing_bias=True))), rows().to(dtype)
    router.weight.data = router.weight.data.to(dtype).float()
    plain = router(x_nD.float())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = router(x_nD)
    narrow = filled(Router(shape(scores="sigmoid", routing_bias=True)))
    narrow.weight.data = router.weight.data.to(dtype)
    for found in (mixed, narrow(x_nD)):
        assert torch.equal(found[0], plain[0]) and torch.equal(found[1], plain[1])


@pytest.mark.parametrize("shared", [0, 7])
@pytest.mark.parametrize("active", [1, 2, 6])
def test_experts_compute_what_a_loop_over_tokens_does(shared: int, active: int):
    mlp, x_BLD = filled(SparseMLP(shape(active=active, shared_width=shared))), rows().view(4, 10, -1)
    experts = mlp.experts
    weight_nA, chosen_nA = mlp.router(x_BLD.flatten(0, 1))
    wanted = []
    for x, weights, chosen in zip(x_BLD.flatten(0, 1), weight_nA, chosen_nA, strict=True):
        total = torch.zeros_like(x) if mlp.shared is None else mlp.shared(x)
        for weight, expert in zip(weights, chosen.tolist(), strict=True):
            gate, up = experts.gate_proj.weight[expert] @ x, experts.up_proj.weight[expert] @ x
            total = total + weight * (experts.down_proj.weight[expert] @ (F.silu(gate) * up))
        wanted.append(total)
    torch.testing.assert_close(mlp(x_BLD).flatten(0, 1), torch.stack(wanted), atol=1e-4, rtol=1e-4)


def test_experts_that_nobody_chose_get_gradients_of_zero():
    mlp = filled(SparseMLP(shape(active=1)))
    mlp(rows(2).view(1, 2, -1)).sum().backward()
    reached = mlp.experts.down_proj.weight.grad.abs().sum((1, 2)) > 0
    assert 1 <= reached.sum() <= 2
    assert mlp.router.weight.grad.any()


def test_mixed_precision_runs_the_experts_in_it():
    mlp, x_BLD = filled(SparseMLP(shape(width=16, expert_width=8))), torch.randn(2, 5, 16)
    plain = mlp(x_BLD)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mlp(x_BLD)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), plain, atol=1.0, rtol=0.05)
    mixed.float().sum().backward()
    assert mlp.experts.up_proj.weight.grad.dtype == torch.float32


def test_layers_have_experts_where_the_configuration_says_so():
    model = on_meta({**LLADA_MOE.tiny_config, "num_hidden_layers": 3, "moe_layer_freq": [1, 0, 1]})
    assert [isinstance(layer.mlp, SparseMLP) for layer in model.trunk.layers] == [True, False, True]
    model = on_meta({**LLADA2.tiny_config, "num_hidden_layers": 4, "first_k_dense_replace": 2})
    assert [isinstance(layer.mlp, SparseMLP) for layer in model.trunk.layers] == [False, False, True, True]


def test_first_weights_are_as_wide_as_the_configuration_says(tmp_path: Path):
    folder = write_config(tmp_path, LLADA2, initializer_range=0.05, hidden_size=64, moe_intermediate_size=64)
    for name, weight in load_model(folder, from_scratch=True).state_dict().items():
        if name.endswith("expert_bias"):
            assert not weight.any()
        elif weight.dim() > 1:
            assert weight.std().item() == pytest.approx(0.05, rel=0.15), name
        else:
            assert (weight == 1).all(), name


def test_forgetting_takes_memory_and_no_values(tmp_path: Path):
    """Of a mapped file the pages come back when they are read again; a tensor smaller than a page is left alone."""
    save_file({"large": torch.arange(2**20), "small": torch.arange(3)}, tmp_path / "file.safetensors")
    with safe_open(tmp_path / "file.safetensors", "pt") as file:
        large, small = file.get_tensor("large"), file.get_tensor("small")
    for tensor in (large, small):
        before = tensor.sum()
        forget(tensor)
        assert torch.equal(tensor.sum(), before)


def test_all_linear_is_what_a_model_has_of_it():
    """The official LLaDA-MoE has neither dense layers nor shared experts: nothing but attention is left."""
    config = {**LLADA_MOE.tiny_config, "moe_layer_freq": [1, 1], "shared_expert_intermediate_size": None}
    model = on_meta(config)
    attach_lora(model, LoraSettings(r=2))
    adapted = {path.split(".")[-2] for path, _ in model.named_modules() if path.endswith(".lora_A")}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj"}


REFUSED = {
    "active is 9; it must be a whole number from 1 to 8": (LLADA2, {"num_experts_per_tok": 9}),
    "experts is 1000000000; it must be a whole number from 1 to 4,096": (LLADA2, {"num_experts": 10**9}),
    "experts is '8'; it must be a whole number": (LLADA2, {"num_experts": "8"}),
    "8 experts in 3 groups, of which 2 take part": (LLADA2, {"n_group": 3}),
    "8 experts in 8 groups, of which 2 take part": (LLADA2, {"n_group": 8}),
    "do not leave 5 to choose": (LLADA2, {"num_experts_per_tok": 5}),
    "groups is 0; it must be a whole number from 1": (LLADA2, {"n_group": 0}),
    "first_dense is 1.5": (LLADA2, {"first_k_dense_replace": 1.5}),
    "3 of the 8 numbers of a head cannot be rotated in pairs": (LLADA2, {"partial_rotary_factor": 0.4}),
    "16 of the 8 numbers of a head cannot be rotated in pairs": (LLADA2, {"partial_rotary_factor": 2}),
    "use_bias=True is not supported for llada2": (LLADA2, {"use_bias": ...}),
    "score_function='softmax' is not supported for llada2": (LLADA2, {"score_function": "softmax"}),
    "moe_layer_freq is [1]; it must list, for each of the 2 layers, 1 or 0": (LLADA_MOE, {"moe_layer_freq": [1]}),
    "clip_qkv=8 is not supported for llada_moe": (LLADA_MOE, {"clip_qkv": 8}),
    "norm_topk_prob=True is not supported for llada_moe": (LLADA_MOE, {"norm_topk_prob": True}),
    "lacks rope_theta, without which a llada_moe model": (LLADA_MOE, {"rope_theta": ...}),
    "heads is 0": (LLADA_MOE, {"num_attention_heads": 0}),
}


@pytest.mark.parametrize("phrase", REFUSED)
def test_shapes_that_cannot_be_are_refused(phrase: str, tmp_path: Path):
    family, changes = REFUSED[phrase]
    with pytest.raises(ModelError) as refusal:
        load_model(write_config(tmp_path, family, **changes), from_scratch=True)
    assert phrase in str(refusal.value)


@pytest.mark.parametrize(
    ("model_type", "architecture", "family"),
    [
        ("llada", "LLaDAMoEModelLM", "llada_moe"),
        ("lladamoe", "LLaDAMoEModelLM", "llada_moe"),
        ("lladamoe", "AnotherName", "llada_moe"),
        ("llada21_moe", "LLaDA2MoeModelLM", "llada2"),
    ],
)
def test_a_family_is_known_by_more_than_one_spelling(model_type: str, architecture: str, family: str):
    config = {**FAMILIES.get(family).tiny_config, "model_type": model_type, "architectures": [architecture]}
    assert on_meta(config).family.name == family


def test_the_dense_llada_keeps_its_name():
    config = FAMILIES.get("llada").tiny_config
    for architectures in (["LLaDAModelLM"], [], None, ["SomethingElse"]):
        assert on_meta({**config, "architectures": architectures}).family.name == "llada"
