"""First weights follow the official code's rules, each at a shape where the rules differ from each other."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.models.tiny import on_meta, write_config
from unmask.models.checkpoints import load_model, official_tensors
from unmask.models.facts import facts_of

WIDTH, INNER, LAYERS, ROWS = 64, 160, 3, 512
SHAPE = {
    "d_model": WIDTH,
    "mlp_hidden_size": INNER,
    "n_layers": LAYERS,
    "vocab_size": ROWS,
    "embedding_size": ROWS,
    "n_heads": 4,
    "n_kv_heads": 4,
    "init_std": 0.05,
}
INWARD = ("q_proj", "k_proj", "v_proj", "ff_proj", "up_proj")
# std of a normal distribution cut at three stds, over that of the whole: sqrt(1 - 6 phi(3) / (2 Phi(3) - 1))
CUT = math.sqrt(1 - 6 * math.exp(-4.5) / math.sqrt(2 * math.pi) / math.erf(3 / math.sqrt(2)))


def mitchell(leaf: str, layer: int) -> float:
    """1/sqrt(inputs) everywhere, the two that write into the stream divided by sqrt(2 (layer + 1))."""
    depth = math.sqrt(2 * (layer + 1))
    return {"attn_out": 1 / math.sqrt(WIDTH) / depth, "ff_out": 1 / math.sqrt(INNER) / depth}.get(leaf, 1 / 8) * CUT


def normal(leaf: str, layer: int) -> float:
    """init_std, the two that write into the stream divided by sqrt(2 layers), whatever their own number."""
    return 0.05 / math.sqrt(6) if leaf in ("attn_out", "ff_out") else 0.05


def full_megatron(leaf: str, layer: int) -> float:
    """As `normal`, with tails cut at three stds; the head has 1/sqrt(width)."""
    return (1 / 8 if leaf == "head" else normal(leaf, layer)) * CUT


def fan_in(leaf: str, layer: int) -> float:
    """1/sqrt(inputs), whatever the depth."""
    return 1 / math.sqrt(INNER if leaf == "ff_out" else WIDTH)


def kaiming_normal(leaf: str, layer: int) -> float:
    """sqrt(2 / inputs)."""
    return math.sqrt(2) * fan_in(leaf, layer)


RULES = {rule.__name__: rule for rule in (mitchell, normal, full_megatron, fan_in, kaiming_normal)}


def first_weights(folder: Path, **changes: object) -> dict[str, torch.Tensor]:
    return official_tensors(load_model(write_config(folder, **{**SHAPE, **changes}), from_scratch=True, seed=1))


def std_close(weight: torch.Tensor, expected: float) -> None:
    """The std of n normal numbers has a standard error of expected / sqrt(2 n); five of them."""
    error = 5 / math.sqrt(2 * weight.numel())
    assert weight.std().item() == pytest.approx(expected, rel=error)
    assert abs(weight.mean().item()) < 5 * expected / math.sqrt(weight.numel())


@pytest.mark.parametrize("rule", RULES)
def test_every_weight_has_the_std_of_its_rule(tmp_path: Path, rule: str):
    weights, std = first_weights(tmp_path, init_fn=rule), RULES[rule]
    assert len(weights) == 9 * LAYERS + 3
    for layer in range(LAYERS):
        for leaf in (*INWARD, "attn_out", "ff_out"):
            std_close(weights[f"model.transformer.blocks.{layer}.{leaf}.weight"], std(leaf, layer))
    std_close(weights["model.transformer.ff_out.weight"], std("head", 0))
    std_close(weights["model.transformer.wte.weight"], std("wte", 0))
    for name, weight in weights.items():
        assert "norm" not in name and "ln_f" not in name or (weight == 1).all()


@pytest.mark.parametrize(
    "rule, cut", [("mitchell", True), ("full_megatron", True), ("normal", False), ("fan_in", False)]
)
def test_tails_are_cut_at_three_stds_where_the_rule_says_so(tmp_path: Path, rule: str, cut: bool):
    weight = first_weights(tmp_path, init_fn=rule)["model.transformer.wte.weight"]
    whole = RULES[rule]("wte", 0) / (CUT if cut else 1)
    # of 32768 normal numbers some 90 lie beyond three stds
    assert (weight.abs().max() <= 3 * whole + 1e-6) == cut


@pytest.mark.parametrize("rule", ["normal", "full_megatron"])
def test_the_file_may_cut_them_elsewhere(tmp_path: Path, rule: str):
    weights = first_weights(tmp_path, init_fn=rule, init_cutoff_factor=1.5)
    outward = weights["model.transformer.blocks.0.attn_out.weight"].abs().max()
    assert weights["model.transformer.wte.weight"].abs().max() == pytest.approx(1.5 * 0.05, rel=1e-2)
    assert outward == pytest.approx(1.5 * 0.05 / math.sqrt(6), rel=1e-2)


def test_scaled_logits_start_from_a_larger_embedding(tmp_path: Path):
    """Half the square root of the width, for the embedding alone."""
    weights = first_weights(tmp_path, init_fn="mitchell", scale_logits=True)
    std_close(weights["model.transformer.wte.weight"], 4 / 8 * CUT)
    std_close(weights["model.transformer.ff_out.weight"], 1 / 8 * CUT)


def test_biases_start_at_zero_and_a_tied_head_is_the_embedding(tmp_path: Path):
    weights = first_weights(tmp_path, include_qkv_bias=True, weight_tying=True)
    biases = [name for name in weights if name.endswith(".bias")]
    assert len(biases) == 3 * LAYERS and all((weights[name] == 0).all() for name in biases)
    assert "model.transformer.ff_out.weight" not in weights
    std_close(weights["model.transformer.wte.weight"], 1 / 8 * CUT)


@torch.no_grad()
def test_scales_of_embeddings_and_logits(tmp_path: Path):
    plain, scaled = (
        load_model(write_config(tmp_path / name, **SHAPE, **changes), from_scratch=True)
        for name, changes in (("a", {}), ("b", {"scale_logits": True, "input_emb_norm": True}))
    )
    scaled.load_state_dict(plain.state_dict())
    tokens_BL = torch.arange(12).view(2, 6)
    plain.trunk.embed.weight.mul_(WIDTH**0.5)
    torch.testing.assert_close(scaled(tokens_BL).logits, plain(tokens_BL).logits * WIDTH**-0.5)
    asked = scaled(tokens_BL, logits_at=torch.tensor([3]), targets=torch.tensor([7])).nll
    full = torch.nn.functional.cross_entropy(scaled(tokens_BL).logits[0, 3:4], torch.tensor([7]), reduction="none")
    torch.testing.assert_close(asked, full)


def test_layers_share_keys_as_the_configuration_says():
    config = {**SHAPE, "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "rope": True}
    facts = facts_of({**config, "model_type": "llada", "n_kv_heads": 2})
    model = on_meta(dict(facts.config))
    assert model.trunk.layers[0].attention.k_proj.out_features == 2 * WIDTH // 4
    assert model.trunk.new_cache(3, 5).keys.shape == (LAYERS, 3, 2, 5, WIDTH // 4)
