"""Llama's kin against transformers' own classes, and dLLM's converted ones against what that code computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from tests.models.tiny import write_config
from unmask.diffusion.blocks import block_ids, two_stream
from unmask.errors import ModelError
from unmask.models.checkpoints import load_model, save_model
from unmask.registry import FAMILIES

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {"rope_type": "longrope", "rope_theta": 500.0, "short_factor": [1.0, 1.1, 1.3, 2.0], "long_factor": [1, 3, 5, 9]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama 3.1": ("Llama", {"rope_parameters": {**LLAMA3, "rope_theta": 500.0}}),
    "llama, angles slowed down": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}),
    "llama, yarn": ("Llama", {"rope_parameters": YARN}),
    "qwen2, yarn of its card": ("Qwen2", {"rope_parameters": {**YARN, "rope_theta": 1e6}}),
    "llama, yarn over all it has": ("Llama", {"rope_parameters": {**YARN, "original_max_position_embeddings": 128}}),
    "llama, yarn with bounds": ("Llama", {"rope_parameters": {**YARN, "beta_fast": 4, "beta_slow": 0.5}}),
    "llama, yarn between pairs": (
        "Llama",
        {"rope_parameters": {**YARN, "truncate": False, "beta_fast": 4.0, "attention_factor": 1.5}},
    ),
    "llama, yarn of deepseek": ("Llama", {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.4}}),
    "llama, yarn not at all": ("Llama", {"rope_parameters": {**YARN, "factor": 1.0}}),
    "llama, longrope, short": ("Llama", {"rope_parameters": {**LONG, "original_max_position_embeddings": 32}}),
    "llama, longrope, at its length": ("Llama", {"rope_parameters": {**LONG, "original_max_position_embeddings": 24}}),
    "llama, longrope, beyond it": ("Llama", {"rope_parameters": {**LONG, "original_max_position_embeddings": 23}}),
    "qwen2, longrope": (
        "Qwen2",
        {"rope_parameters": {**LONG, "original_max_position_embeddings": 16, "factor": 3.0, "rope_theta": 1e4}},
    ),
    "qwen3, longrope, loud": (
        "Qwen3",
        {"head_dim": 8, "rope_parameters": {**LONG, "original_max_position_embeddings": 8, "attention_factor": 1.2}},
    ),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "mistral without a window": ("Mistral", {"sliding_window": None}),
    "mistral, short window": ("Mistral", {"sliding_window": 4}),
    "mistral, wide heads": ("Mistral", {"head_dim": 16}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
}
SIZE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
}
IDS = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(0))
# padding at the left of one row and at the right of the other
MASK = torch.ones(2, 24, dtype=torch.long)
MASK[0, :3] = MASK[1, 20:] = 0


def theirs(name: str, changes: dict[str, Any]) -> nn.Module:
    """transformers' class with random weights, strong enough that each of them shows."""
    config = getattr(transformers, f"{name}Config")(**SIZE, **changes)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers_both_ways(case: str, tmp_path: Path) -> None:
    name, changes = CASES[case]
    model = theirs(name, changes)
    model.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    torch.testing.assert_close(ours(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)
    padded, real = model(IDS, attention_mask=MASK).logits, MASK.bool()
    torch.testing.assert_close(ours(IDS, MASK).logits[real], padded[real], atol=1e-5, rtol=1e-5)

    save_model(ours, tmp_path / "ours")
    again = type(model).from_pretrained(tmp_path / "ours")
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    written, original = (json.loads((tmp_path / who / "config.json").read_text()) for who in ("ours", "theirs"))
    assert written == original
    tensors = [load_file(tmp_path / who / "model.safetensors") for who in ("ours", "theirs")]
    assert tensors[0].keys() == tensors[1].keys()


@torch.no_grad()
def test_a_configuration_as_transformers_4_wrote_it(tmp_path: Path) -> None:
    model = theirs("Llama", {"rope_parameters": {**LLAMA3, "rope_theta": 500.0}})
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    del config["rope_parameters"]
    file.write_text(json.dumps({**config, "rope_theta": 500.0, "rope_scaling": LLAMA3, "torch_dtype": "float32"}))
    torch.testing.assert_close(load_model(tmp_path)(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", [YARN, LONG])
def test_a_length_beside_the_rotary_settings_wins(kind: dict[str, Any], tmp_path: Path) -> None:
    model = theirs("Llama", {"rope_parameters": dict(kind), "original_max_position_embeddings": 20})
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(load_model(tmp_path)(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_with_longrope_each_row_has_its_own_length(tmp_path: Path) -> None:
    """transformers asks how long the longest row is; then a row alone would differ from the row in a batch."""
    config = {"rope_scaling": {**LONG, "original_max_position_embeddings": 30}}
    model = load_model(write_config(tmp_path, FAMILIES.get("llama"), **SIZE, **config), from_scratch=True)
    near_L, far_L = torch.arange(24), torch.arange(24) + 8
    together = model(IDS, positions=torch.stack([near_L, far_L])).logits
    for row, positions_L in enumerate((near_L, far_L)):
        alone = model(IDS[row : row + 1], positions=positions_L[None]).logits[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_converted_models_equal_the_reference(shared: Path, kind: str) -> None:
    golden = shared / "golden" / f"a2d_{kind}"
    model = load_model(golden)
    given, wanted = load_file(golden / "inputs.safetensors"), load_file(golden / "logits.safetensors")
    found = {
        "nomask": (model(given["ids"]).logits, torch.ones(3, 24)),
        "right": (model(given["ids_right"], given["mask_right"]).logits, given["mask_right"]),
        "left": (model(given["ids_left"], given["mask_left"]).logits, given["mask_left"]),
        "left_pos": (
            model(given["ids_left"], given["mask_left"], positions=given["pos_left"]).logits,
            given["mask_left"],
        ),
    }
    for name, (logits, real) in found.items():
        torch.testing.assert_close(logits[real.bool()], wanted[f"logits_{name}"][real.bool()], atol=2e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("block_size", [4, 8])
def test_two_streams_of_converted_models_equal_the_reference(shared: Path, kind: str, block_size: int) -> None:
    golden = shared / "golden" / f"a2d_{kind}"
    given = load_file(golden / "bd3lm_forward.safetensors")
    pattern = two_stream(block_ids(torch.arange(24).expand(2, 24), block_size))
    streams = torch.cat([given["noised"], given["ids"]], dim=1)
    logits = load_model(golden)(streams, attention=pattern, positions=given["position_ids"]).logits
    torch.testing.assert_close(logits, given[f"logits_2L_bs{block_size}"], atol=2e-4, rtol=1e-5)


REFUSED = {
    'rope_type "dynamic" is not supported; supported: default, linear, llama3, yarn, longrope': {
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}
    },
    "rope_theta is 1; it must be above 1": {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1}},
    "beta_slow is 32 and beta_fast 32": {"rope_scaling": {**YARN, "beta_slow": 32}},
    "the rotary attention_factor is '2'": {"rope_scaling": {**YARN, "attention_factor": "2"}},
    "the rotary truncate is 'no'; it must be true or false": {"rope_scaling": {**YARN, "truncate": "no"}},
    "original_max_position_embeddings is -4": {"rope_scaling": {**YARN, "original_max_position_embeddings": -4}},
    "the rotary scaling longrope lacks short_factor": {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 4}},
    "the rotary long_factor is 0; it must be a number": {"rope_scaling": {**LONG, "long_factor": [0, 1, 1, 1]}},
    "the rotary long_factor is a str": {"rope_scaling": {**LONG, "long_factor": "1"}},
    "hold 4 and 3 numbers; a head of this model is rotated in 4 pairs": {
        "rope_scaling": {**LONG, "long_factor": [1.0] * 3}
    },
    'the rotary setting "beta_fast" is not known for linear': {"rope_scaling": {"rope_type": "linear", "beta_fast": 1}},
    "a value has the wrong type": {"rope_scaling": "linear"},
    "rope_theta is 0": {"rope_theta": 0},
    "the rotary factor is 0": {"rope_scaling": {"rope_type": "linear", "factor": 0}},
    "low_freq_factor is 4.0 and high_freq_factor 4.0": {"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}},
    "head_width is 2.5": {"head_dim": 2.5},
    "attention_bias=True is not supported for llama": {"attention_bias": True},
    'key "sliding_window" is not known for llama': {"sliding_window": 4},
    'key "quantization_config" is not known': {"quantization_config": {}},
}


@pytest.mark.parametrize("phrase", REFUSED)
def test_what_would_change_the_forward_pass_is_refused(phrase: str, tmp_path: Path) -> None:
    write_config(tmp_path, FAMILIES.get("llama"), **REFUSED[phrase])
    with pytest.raises(ModelError, match=phrase):
        load_model(tmp_path, from_scratch=True)


@pytest.mark.parametrize(
    ("family", "change", "phrase"),
    [
        ("mistral", {"sliding_window": 0}, "sliding_window is 0; it must be null or"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window=True is not supported"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layers that are not full_attention"),
        ("llama", {"rope_scaling": {"rope_type": "llama3"}}, "lacks"),
    ],
)
def test_windows_that_are_not_ours_are_refused(family: str, change: Any, phrase: str, tmp_path: Path) -> None:
    write_config(tmp_path, FAMILIES.get(family), **change)
    with pytest.raises(ModelError, match=phrase):
        load_model(tmp_path, from_scratch=True)


def test_first_weights_are_as_wide_as_transformers(tmp_path: Path) -> None:
    """transformers draws every weight from one normal distribution, whatever its depth; norms are 1, biases 0."""
    size = {**SIZE, "hidden_size": 64, "intermediate_size": 256, "vocab_size": 512, "initializer_range": 0.05}
    write_config(tmp_path, FAMILIES.get("qwen2"), **size)
    for name, weight in load_model(tmp_path, from_scratch=True).named_parameters():
        if weight.dim() == 2:
            assert weight.std().item() == pytest.approx(0.05, rel=0.1), name
        else:
            assert (weight == (0.0 if name.endswith("bias") else 1.0)).all(), name
