"""The dense LLaDA forward pass, its loss and its gradients equal the reference's, before and after our own saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.models.tiny import on_meta
from unmask.diffusion.schedules import Linear, MaskgitCosine
from unmask.models.checkpoints import GENERATION, load_model, official_tensors, save_model
from unmask.models.names import to_our_name
from unmask.models.shell import DiffusionModel
from unmask.objectives.masked import MaskedDiffusion
from unmask.types import AttentionSpec, Batch, SampleKeys

SCHEDULES = {"linear": Linear(), "cosine": MaskgitCosine()}
WEIGHTS = {"scheduler": "elbo", "uniform": "uniform"}
SETTINGS = [f"{s}_{w}_{n}" for s in SCHEDULES for w in WEIGHTS for n in ("token", "sequence", "batch")]
# the official LLaDA-8B config.json has these keys and those of the golden one
OFFICIAL = {
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"},
    "mask_token_id": 126336,
    "eos_token_id": 126081,
    "pad_token_id": 126081,
}


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-5)


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden/llada"


@pytest.fixture(scope="module")
def config(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "config.json").read_text())


@pytest.fixture(scope="module", params=["their file", "our file", "our shards"])
def model(request: pytest.FixtureRequest, golden: Path, tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    if request.param == "their file":
        return load_model(golden)
    folder = tmp_path_factory.mktemp("saved")
    save_model(load_model(golden), folder, max_shard_size="5GB" if request.param == "our file" else "100KB")
    assert (folder / "model.safetensors").exists() == (request.param == "our file")
    return load_model(folder)


@pytest.fixture(scope="module")
def inputs(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "inputs.safetensors")


@pytest.fixture(scope="module")
def stored(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "logits.safetensors")


@torch.no_grad()
def test_logits_without_a_mask(model, inputs, stored):
    close(model(inputs["ids"]).logits, stored["logits_nomask"])


@torch.no_grad()
def test_logits_under_a_mask_of_ones(model, inputs, stored):
    close(model(inputs["ids"], torch.ones_like(inputs["ids"])).logits, stored["logits_ones"])


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("packed", [True, False])
def test_logits_of_padded_rows(model, inputs, stored, side: str, packed: bool):
    mask_BL = inputs[f"mask_{side}"]
    assert (mask_BL == 0).any()
    by_mask = model(inputs[f"ids_{side}"], mask_BL).logits
    by_spec = model(inputs[f"ids_{side}"], attention=AttentionSpec(document_BL=mask_BL - 1, packed=packed)).logits
    # the reference lets padded queries see all real positions, and so do we
    close(by_mask, stored[f"logits_{side}"])
    close(by_spec, stored[f"logits_{side}"])


@torch.no_grad()
def test_logits_where_asked_are_those_rows(model, inputs, stored):
    at = torch.tensor([0, 71, 5, 5, 30])
    close(model(inputs["ids"], logits_at=at).logits, stored["logits_nomask"].flatten(0, 1)[at])


@torch.no_grad()
def test_hidden_states(model, inputs, stored):
    seen: list[torch.Tensor] = []
    watch = lambda module, args, output: seen.append(output)  # noqa: E731
    modules = [model.trunk.embed, *model.trunk.layers]
    handles = [module.register_forward_hook(watch) for module in modules]
    out = model(inputs["ids"])
    for handle in handles:
        handle.remove()
    # the reference's list is embedding, layers 1 .. n-1 and, in place of layer n, the normed end
    for number, hidden in enumerate(seen[:-1]):
        close(hidden, stored[f"hidden_{number}"])
    close(out.hidden, stored[f"hidden_{len(seen) - 1}"])


@pytest.fixture(scope="module")
def losses(golden: Path) -> dict[str, dict[str, Any]]:
    settings = json.loads((golden / "mdlm_loss.json").read_text())["settings"]
    return {entry["key"]: entry for entry in settings}


@pytest.fixture(scope="module")
def given(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "mdlm_loss_tensors.safetensors")


@pytest.fixture(scope="module")
def batch(given: dict[str, torch.Tensor]) -> Batch:
    valid_BL, rows = given["attention_mask"].bool(), torch.arange(len(given["t"]))
    return Batch(
        x0_BL=given["input_ids"],
        may_noise_BL=given["labels"] != -100,
        sample_BL=torch.where(valid_BL, rows[:, None], -1),
        keys=SampleKeys(rows, rows, torch.zeros_like(rows)),
        attention=AttentionSpec(document_BL=valid_BL.long() - 1, packed=False),
    )


def objective_of(entry: dict[str, Any]) -> MaskedDiffusion:
    return MaskedDiffusion(
        mask_token_id=511,
        schedule=SCHEDULES[entry["scheduler"]],
        loss_weight=WEIGHTS[entry["loss_weight_type"]],
        normalization=entry["loss_norm_type"],
    )


def test_every_stored_setting_is_checked(losses):
    assert sorted(losses) == sorted(SETTINGS)


@pytest.mark.parametrize("key", SETTINGS)
def test_loss(model, losses, given, batch, key: str):
    entry = losses[key]
    objective = objective_of(entry)
    noise = objective.noise_at(batch, given["t"], given[f"masked_{entry['scheduler']}"])
    with torch.no_grad():
        sums = objective(model, batch, noise)
    close(sums.loss / objective.count(batch), torch.tensor(entry["loss"]))


@pytest.mark.parametrize("scheduler", SCHEDULES)
def test_bound_of_each_token(model, losses, given, batch, scheduler: str):
    """The reference's weighted likelihoods before normalisation, token by token."""
    objective = objective_of(losses[f"{scheduler}_scheduler_token"])
    noise = objective.noise_at(batch, given["t"], given[f"masked_{scheduler}"])
    with torch.no_grad():
        nll = model(noise.xt_BL, attention=batch.attention, logits_at=noise.masked_at, targets=noise.targets).nll
    theirs = given[f"token_nll_weighted_{scheduler}_scheduler"].flatten()
    # theirs adds 1e-6 to the denominator of the weight
    torch.testing.assert_close(nll * noise.loss_weight, theirs[noise.masked_at], atol=2e-4, rtol=1e-4)
    assert theirs.count_nonzero() == len(noise.masked_at)


def test_gradients_of_all_parameters(model, golden, losses, given, batch):
    entry = losses["linear_scheduler_token"]
    objective = objective_of(entry)
    noise = objective.noise_at(batch, given["t"], given["masked_linear"])
    model.zero_grad()
    (objective(model, batch, noise).loss / objective.count(batch)).backward()
    theirs = load_file(golden / "mdlm_grads.safetensors")
    ours = {to_our_name(model.family, name): gradient for name, gradient in theirs.items()}
    assert ours.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        close(parameter.grad, ours[name])
    model.zero_grad()


def test_a_saved_folder_has_their_names_shapes_and_configuration(golden, config, tmp_path):
    model = load_model(golden)
    save_model(model, tmp_path)
    theirs, ours = safe_open(golden / "model.safetensors", "pt"), safe_open(tmp_path / "model.safetensors", "pt")
    assert list(ours.keys()) == list(theirs.keys()) and ours.metadata() == theirs.metadata()
    for name in theirs.keys():  # noqa: SIM118
        assert torch.equal(ours.get_tensor(name), theirs.get_tensor(name))
    assert json.loads((tmp_path / "config.json").read_text()) == config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", GENERATION, "model.safetensors"]
    assert json.loads((tmp_path / GENERATION).read_text()) == json.loads((golden / GENERATION).read_text())


def test_the_tutorials_model_has_its_parameters(config):
    """Parents §6.3: the official configuration cut down to 100M, without memory for its weights."""
    shape = dict(d_model=448, n_heads=7, n_kv_heads=7, n_layers=6, mlp_hidden_size=768)
    model = on_meta({**config, **OFFICIAL, **shape, "vocab_size": 126464, "embedding_size": 126464})
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.num_parameters() == 124_327_616
    assert sum(tensor.numel() for tensor in official_tensors(model).values()) == 124_327_616


def test_the_8b_model_has_its_parameters(config):
    rows, width, layers, inner = 126464, 4096, 32, 12288
    shape = dict(d_model=width, n_heads=32, n_kv_heads=32, n_layers=layers, mlp_hidden_size=inner)
    model = on_meta({**config, **OFFICIAL, **shape, "vocab_size": rows, "embedding_size": rows})
    closed_form = 2 * rows * width + layers * (4 * width**2 + 3 * width * inner + 2 * width) + width
    assert closed_form == 8_015_581_184
    assert model.num_parameters() == closed_form
    assert all(parameter.is_meta for parameter in model.parameters())
