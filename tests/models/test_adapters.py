"""Adapters attach where they are asked to, are stored under the official names, and are read whole or not at all."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.tiny import checkpoint, tokens
from unmask.errors import ConfigError, ModelError, ResourceError
from unmask.models.adapters import (
    LoraSettings,
    attach_lora,
    base_of,
    has_adapter,
    is_adapter,
    load_adapter,
    read_adapter,
    save_adapter,
)
from unmask.models.checkpoints import load_model
from unmask.models.shell import DiffusionModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BLOCK = "base_model.model.model.transformer.blocks.0"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # three layers: from 20 targets on PEFT rewrites the list that it was given
    return checkpoint(tmp_path_factory.mktemp("base"), n_layers=3)


def adapted(base: Path, **settings: object) -> DiffusionModel:
    """With every trainable weight moved, so that none of them can be lost unseen."""
    model = load_model(base)
    attach_lora(model, LoraSettings(**{"r": 2, **settings}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def saved(base: Path, tmp_path: Path) -> Path:
    save_adapter(adapted(base), tmp_path / "adapter")
    return tmp_path / "adapter"


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def layers(model: DiffusionModel) -> set[str]:
    return {re.sub(r"\.lora_(embedding_)?A.*", "", name) for name, _ in model.named_parameters() if "_A" in name}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": "q_proj,o_proj"},
        {"target_modules": ["ff_out", "wte"]},
        {"target_modules": "head"},
        {"use_dora": True},
        {"use_rslora": True},
        {"modules_to_save": "head"},
        {"modules_to_save": ["wte", "o_proj"], "target_modules": "q_proj"},
    ],
)
def test_a_round_trip_keeps_the_logits(base: Path, tmp_path: Path, settings: dict):
    model = adapted(base, **settings)
    save_adapter(model, tmp_path)
    again = load_model(base)
    load_adapter(again, tmp_path, trainable=True)
    ours = model(tokens()).logits
    assert torch.equal(again(tokens()).logits, ours)
    assert (load_model(base)(tokens()).logits - ours).abs().max() > 1e-2
    trained = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name: p.shape for name, p in again.named_parameters() if p.requires_grad}
    save_adapter(again, tmp_path / "again")
    first, second = load_file(tmp_path / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_biases_are_trained_and_stored_as_asked(tmp_path: Path, bias: str):
    base = checkpoint(tmp_path / "base", include_qkv_bias=True)
    model = adapted(base, bias=bias, target_modules="q_proj")
    trained = {name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name}
    assert len(trained) == {"none": 0, "all": 6, "lora_only": 2}[bias]
    save_adapter(model, tmp_path / "adapter")
    stored = {name for name in load_file(tmp_path / "adapter" / WEIGHTS) if name.endswith(".bias")}
    assert len(stored) == len(trained) and all(".transformer.blocks." in name for name in stored)
    again = load_model(base)
    load_adapter(again, tmp_path / "adapter")
    assert torch.equal(again(tokens()).logits, model(tokens()).logits)


def test_the_file_has_the_official_names(saved: Path):
    names = sorted(load_file(saved / WEIGHTS))
    leaves = ("attn_out", "ff_out", "ff_proj", "k_proj", "q_proj", "up_proj", "v_proj")
    first = [name for name in names if name.startswith(BLOCK)]
    assert first == [f"{BLOCK}.{leaf}.lora_{side}.weight" for leaf in leaves for side in "AB"]
    assert not (saved / "config.json").exists()


@pytest.mark.parametrize(
    "settings, inside, outside",
    [
        ({}, f"{BLOCK}.ff_out", "model.transformer.ff_out"),
        ({"target_modules": "head"}, "model.transformer.ff_out", f"{BLOCK}.ff_out"),
        ({"target_modules": "wte,q_proj"}, "model.transformer.wte", f"{BLOCK}.k_proj"),
    ],
)
def test_the_stored_pattern_finds_the_same_layers_in_the_official_code(
    base: Path, tmp_path: Path, settings: dict, inside: str, outside: str
):
    save_adapter(adapted(base, **settings), tmp_path)
    pattern = json.loads((tmp_path / CONFIG).read_text())["target_modules"]
    assert re.fullmatch(pattern, inside.removeprefix("base_model.model."))
    assert not re.fullmatch(pattern, outside.removeprefix("base_model.model."))
    assert not re.fullmatch(pattern, "model.transformer.wpe")
    stored = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in load_file(tmp_path / WEIGHTS)}
    assert all(re.fullmatch(pattern, path) for path in stored)


def test_whole_modules_are_named_officially_too(base: Path, tmp_path: Path):
    save_adapter(adapted(base, modules_to_save="head"), tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["modules_to_save"] == ["model.transformer.ff_out"]
    assert "base_model.model.model.transformer.ff_out.weight" in load_file(tmp_path / WEIGHTS)


@pytest.mark.parametrize(
    "ours, official", [("o_proj", "attn_out"), ("gate_proj", "ff_proj"), ("down_proj", "ff_out"), ("embed", "wte")]
)
def test_layers_go_by_our_name_and_by_the_official_one(base: Path, ours: str, official: str):
    assert layers(adapted(base, target_modules=ours)) == layers(adapted(base, target_modules=[official]))


def test_all_linear_is_every_linear_layer_but_the_head(base: Path):
    found = layers(adapted(base))
    assert len(found) == 3 * 7 and "head" not in found
    assert "head" not in layers(adapted(base, target_modules="ff_out"))
    assert layers(adapted(base, target_modules="head")) == {"head"}
    assert layers(adapted(base, target_modules="all-linear, head")) == found | {"head"}


@pytest.mark.parametrize("name, hint", [("q_prj", "q_proj"), ("attn_ot", "attn_out"), ("zzz", "")])
@pytest.mark.parametrize("field", ["target_modules", "modules_to_save"])
def test_an_unknown_layer_is_refused_with_the_nearest(base: Path, name: str, hint: str, field: str):
    with pytest.raises(ConfigError, match=f'{field}: "{name}" is no layer of a llada model') as caught:
        attach_lora(load_model(base), LoraSettings(**{field: f"q_proj,{name}"}))
    assert (f'Did you mean "{hint}"?' in str(caught.value)) == bool(hint)


@pytest.mark.parametrize(
    "settings, phrase",
    [
        ({"r": 0}, "r must be at least 1; got 0"),
        ({"lora_alpha": 0}, "lora_alpha must be above 0; got 0"),
        ({"lora_dropout": 1.0}, "lora_dropout must lie in 0..1, 1 excluded; got 1.0"),
        ({"lora_dropout": -0.1}, "lora_dropout must lie in 0..1"),
        ({"bias": "lora"}, 'bias "lora" is not one of none, all, lora_only'),
        ({"target_modules": " , "}, "target_modules is empty. Name layers, or all-linear"),
    ],
)
def test_a_setting_out_of_range_is_refused(base: Path, settings: dict, phrase: str):
    model = load_model(base)
    with pytest.raises(ConfigError, match=re.escape(phrase)):
        attach_lora(model, LoraSettings(**settings))
    assert not has_adapter(model)


def test_a_bias_nearly_named_is_guessed(base: Path):
    with pytest.raises(ConfigError, match='Did you mean "lora_only"'):
        attach_lora(load_model(base), LoraSettings(bias="loraonly"))


def test_a_loaded_adapter_is_frozen_unless_it_is_to_be_trained(base: Path, saved: Path):
    model = load_model(base)
    load_adapter(model, saved)
    assert has_adapter(model) and not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training and not any(module.training for module in model.modules())


@pytest.mark.parametrize("name", [5, ["a"], {"a": 1}, True])
def test_a_base_that_is_no_name(saved: Path, name: object):
    change_config(saved, base_model_name_or_path=name)
    with pytest.raises(ModelError, match="base_model_name_or_path is .*it must be a folder or a Hub id"):
        base_of(saved)


def test_an_adapter_knows_its_base(base: Path, saved: Path):
    assert is_adapter(saved) and not is_adapter(base) and base_of(saved) == str(base)


def test_reading_puts_the_stored_weights_back(base: Path, tmp_path: Path):
    model = adapted(base)
    save_adapter(model, tmp_path)
    wanted = model(tokens()).logits
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    read_adapter(model, tmp_path)
    assert torch.equal(model(tokens()).logits, wanted)


def test_nothing_asks_the_hub_about_the_base(base: Path, tmp_path: Path, monkeypatch):
    def no_network(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    model = load_model(base)
    model.config._name_or_path = "owner/name"
    attach_lora(model, LoraSettings(r=2, target_modules="wte,q_proj"))
    save_adapter(model, tmp_path)
    load_adapter(load_model(base), tmp_path)
    assert base_of(tmp_path) == "owner/name"
    assert "base_model.model.model.transformer.wte.weight" not in load_file(tmp_path / WEIGHTS)


# what is damaged or foreign


def refused(base: Path, folder: Path, phrase: str) -> None:
    with pytest.raises(ModelError, match=phrase):
        load_adapter(load_model(base), folder)


def test_an_adapter_of_a_deeper_base(saved: Path, tmp_path: Path):
    other = checkpoint(tmp_path / "other", n_layers=1)
    refused(other, saved, "adapts trunk.layers.1.* which this llada model lacks: another base")


def test_an_adapter_of_a_wider_base(saved: Path, tmp_path: Path):
    other = checkpoint(tmp_path / "other", d_model=48, n_layers=3)
    refused(other, saved, "does not fit this model: size mismatch")


def test_an_adapter_of_another_family(base: Path, saved: Path):
    tensors = load_file(saved / WEIGHTS)
    renamed = {name.replace("transformer.blocks", "layers"): tensor for name, tensor in tensors.items()}
    save_file(renamed, saved / WEIGHTS)
    refused(base, saved, "is no layer of a llada model. The adapter belongs to another base")


def test_a_lost_tensor(base: Path, saved: Path):
    tensors = load_file(saved / WEIGHTS)
    del tensors[f"{BLOCK}.q_proj.lora_B.weight"]
    save_file(tensors, saved / WEIGHTS)
    refused(base, saved, r"lacks 1 tensors .first: .*q_proj.lora_B.weight")


def test_a_tensor_too_many(base: Path, saved: Path):
    tensors = load_file(saved / WEIGHTS)
    tensors[f"{BLOCK}.q_proj.lora_magnitude_vector.weight"] = torch.ones(2)
    save_file(tensors, saved / WEIGHTS)
    refused(base, saved, r"has 1 tensors too many .first: .*magnitude")


def test_reading_an_adapter_of_other_targets(base: Path, saved: Path):
    with pytest.raises(ModelError, match="tensors too many"):
        read_adapter(adapted(base, target_modules="q_proj"), saved)


@pytest.mark.parametrize(
    "changes, phrase",
    [
        ({"use_dora": True}, "lacks 21 tensors"),
        ({"rank_pattern": {"q_proj": 3}}, "rank_pattern=.* is not supported"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern=.* is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True is not supported"),
        ({"lora_bias": True}, "lora_bias=True is not supported"),
        ({"peft_type": "IA3"}, "is a IA3 adapter; only LoRA is supported"),
        ({"r": 0}, "r must be at least 1"),
        ({"r": 3}, "does not fit this model"),
        ({"r": "2"}, "r is '2', which is no such setting"),
        ({"use_dora": "yes"}, "use_dora is 'yes', which is no such setting"),
        ({"r": True}, "r is True, which is no such setting"),
        ({"base_model_name_or_path": 5, "r": 3}, "does not fit this model"),
        ({"bias": "some"}, 'bias "some" is not one of'),
    ],
)
def test_settings_that_we_lack_are_refused(base: Path, saved: Path, changes: dict, phrase: str):
    change_config(saved, **changes)
    refused(base, saved, phrase)


@pytest.mark.parametrize("text, phrase", [("{", "is not valid JSON"), ("[]", "holds a list, no settings")])
def test_a_broken_configuration(base: Path, saved: Path, text: str, phrase: str):
    (saved / CONFIG).write_text(text)
    refused(base, saved, phrase)


def test_a_folder_without_one(base: Path, tmp_path: Path):
    refused(base, tmp_path, "is no adapter: it holds no adapter_config.json")


@pytest.mark.parametrize("keep", [0, 50, None])
def test_damaged_or_missing_weights(base: Path, saved: Path, keep: int | None):
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).unlink() if keep is None else (saved / WEIGHTS).write_bytes(data[:keep])
    refused(base, saved, "is missing or damaged: .*Save the adapter again")


def test_a_pickle_is_not_opened(base: Path, saved: Path):
    (saved / WEIGHTS).unlink()
    (saved / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    refused(base, saved, "is missing or damaged")


def test_a_place_that_cannot_be_written(base: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot save to .*Free space or choose another folder"):
        save_adapter(adapted(base), tmp_path / "file")


def test_the_folder_of_a_finished_run_is_an_adapter(base: Path, tmp_path: Path):
    model = adapted(base)
    save_adapter(model, tmp_path / "run/checkpoint-final")
    again = load_model(base)
    load_adapter(again, tmp_path / "run")
    with torch.no_grad():
        assert torch.equal(model(tokens()).logits, again(tokens()).logits)
