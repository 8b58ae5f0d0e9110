"""The sparse families equal the reference: logits, routers' choices, losses, gradients; and do right where it errs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.parity.golden import batch_of, close, loss_of, settings, tensors
from unmask.diffusion.blocks import block_causal, block_ids
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions
from unmask.models.checkpoints import load_model, official_tensors, save_model
from unmask.models.moe import Router

LLADA2 = ("llada2_moe", "llada21_moe")
ALL = ("llada_moe", *LLADA2)
PADDING = 508


@pytest.fixture(params=ALL, scope="module")
def golden(request: pytest.FixtureRequest, shared: Path) -> Path:
    return shared / "golden" / request.param


@pytest.fixture(params=LLADA2, scope="module")
def golden2(request: pytest.FixtureRequest, shared: Path) -> Path:
    return shared / "golden" / request.param


@torch.no_grad()
def test_logits(golden: Path):
    model, given, wanted = load_model(golden), tensors(golden, "inputs"), tensors(golden, "logits")
    out = model(given["ids"])
    close(out.logits, wanted["logits_nomask"])
    close(out.hidden, wanted["hidden_3"])
    close(model(given["ids"], torch.ones_like(given["ids"])).logits, wanted["logits_nomask"])


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_padded_rows(shared: Path, side: str):
    golden = shared / "golden/llada_moe"
    given, wanted = tensors(golden, "inputs"), tensors(golden, "logits")
    close(load_model(golden)(given[f"ids_{side}"], given[f"mask_{side}"]).logits, wanted[f"logits_{side}"])


@torch.no_grad()
def test_padding_does_not_make_llada2_causal(golden2: Path):
    """The reference turns causal as soon as a mask hides anything; here, hiding padding is all that a mask does."""
    model, given = load_model(golden2), tensors(golden2, "inputs")
    padded = model(given["ids_right"], given["mask_right"]).logits
    for row, length in enumerate(given["mask_right"].sum(1).tolist()):
        alone = model(given["ids_right"][row : row + 1, :length]).logits
        torch.testing.assert_close(padded[row : row + 1, :length], alone, atol=1e-4, rtol=1e-4)
    causal = tensors(golden2, "logits")["logits_right2d"]
    assert (padded - causal)[given["mask_right"].bool()].abs().max() > 1


@torch.no_grad()
def test_block_causal_logits_of_llada2(golden2: Path):
    model, given, wanted = load_model(golden2), tensors(golden2, "inputs"), tensors(golden2, "logits")
    pattern = block_causal(block_ids(torch.arange(24)[None], 8))
    close(model(given["ids"], attention=pattern).logits, wanted["logits_block_bool"])
    close(model(given["ids"], attention=pattern).logits, wanted["logits_block_log_f32"])


@torch.no_grad()
def test_routers_choose_the_same_experts(golden2: Path):
    model, given, wanted = load_model(golden2), tensors(golden2, "inputs"), tensors(golden2, "logits")
    chosen: list[torch.Tensor] = []
    for router in (module for module in model.modules() if isinstance(module, Router)):
        router.register_forward_hook(lambda module, args, output: chosen.append(output[1]))
    model(given["ids"])
    assert len(chosen) == 2
    for number, found in enumerate(chosen):
        assert torch.equal(found.view(3, 24, 2), wanted[f"router_topk_{number}"])


@torch.no_grad()
def test_losses(golden: Path):
    model, names = load_model(golden), ["mdlm"] if golden.name == "llada_moe" else ["mdlm", "mdlm_trainmode"]
    for name in names:
        given = tensors(golden, f"{name}_loss_tensors")
        # LLaDA2's were computed without the mask that hides padding
        batch = batch_of(given, hide_padding=golden.name == "llada_moe")
        for entry in settings(golden, name):
            loss = loss_of(model, entry, batch, given)
            torch.testing.assert_close(loss, torch.tensor(entry["loss"]), atol=1e-3, rtol=1e-5, msg=entry["key"])


@pytest.mark.parametrize("training", [False, True])
def test_gradients_reach_the_experts(golden: Path, training: bool):
    """In the reference those of LLaDA2 do so in training mode only: its path for evaluation computes without them."""
    stored = "mdlm" if golden.name == "llada_moe" else "mdlm_trainmode"
    model, given = load_model(golden).train(training), tensors(golden, f"{stored}_loss_tensors")
    (entry,) = (entry for entry in settings(golden, stored) if entry["key"] == "linear_scheduler_token")
    loss_of(model, entry, batch_of(given, hide_padding=golden.name == "llada_moe"), given).backward()
    theirs = tensors(golden, f"{stored}_grads")
    ours = official_tensors(model, {name: weight.grad for name, weight in model.named_parameters()})
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        if name.endswith("embeddings.weight"):
            # the official embedding learns nothing at the padding token, even where that is text or visible
            ours[name][PADDING] = 0
        torch.testing.assert_close(ours[name], gradient, atol=1e-3, rtol=1e-4, msg=name)
    # but those that no token chose
    experts = [bool(ours[name].any()) for name in theirs if ".experts." in name]
    assert sum(experts) > len(experts) / 2


@pytest.mark.parametrize("max_shard_size", ["5GB", "60KB"])
def test_a_saved_folder_has_their_names_and_bytes(golden: Path, max_shard_size: str, tmp_path: Path):
    save_model(load_model(golden), tmp_path, max_shard_size=max_shard_size)
    assert (tmp_path / "config.json").read_text().split() == (golden / "config.json").read_text().split()
    files = sorted(tmp_path.glob("*.safetensors"))
    found = {name: tensor for file in files for name, tensor in tensors(tmp_path, file.stem).items()}
    theirs = safe_open(golden / "model.safetensors", "pt")
    assert sorted(found) == sorted(theirs.keys())
    for name, tensor in found.items():
        assert torch.equal(tensor, theirs.get_tensor(name)), name
    if max_shard_size == "5GB":
        assert (files[0].stat().st_size, len(files)) == ((golden / "model.safetensors").stat().st_size, 1)
    else:
        assert len(files) > 5 and max(file.stat().st_size for file in files) < 160_000
        again, given = load_model(tmp_path), tensors(golden, "inputs")["ids"]
        assert torch.equal(again(given).logits, load_model(golden)(given).logits)


def test_sampled_tokens_of_llada2(golden2: Path):
    """Runs of its sampler that ask for at least one token per step: what the strategy `threshold` does."""
    model, checked = load_model(golden2), 0
    for run in json.loads((golden2 / "sampler.json").read_text()):
        asked = run["settings"]
        if run["sampler"] != "LLaDA2Sampler.sample" or asked["steps_per_block"] != asked["block_size"]:
            continue
        options = GenerationOptions(
            max_new_tokens=asked["max_new_tokens"],
            block_size=asked["block_size"],
            strategy="threshold",
            threshold=asked["threshold"],
            attention="block_causal",
            early_stop=False,
        )
        (done,) = generate(model, run["inputs"], options=options, mask_token_id=511)
        start = len(run["inputs"][0])
        # theirs goes on to the end of a block
        assert list(done.token_ids) == run["output"][0][start : start + asked["max_new_tokens"]]
        checked += 1
    assert checked == (4 if golden2.name == "llada2_moe" else 0)


@torch.no_grad()
def test_weights_in_bfloat16_leave_the_routing_bias_as_it_is_stored(golden2: Path):
    model = load_model(golden2, dtype="bfloat16")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    stored = tensors(golden2, "model")
    for name, buffer in model.named_buffers():
        if name.endswith("expert_bias"):
            layer = name.split(".")[2]
            assert torch.equal(buffer, stored[f"model.layers.{layer}.mlp.gate.expert_bias"]) and buffer.any()
    assert model(tensors(golden2, "inputs")["ids"]).logits.isfinite().all()
