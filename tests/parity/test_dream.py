"""Dream's forward pass, losses and gradients equal the reference's; our logits are aligned, its are one row late."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import pre_tokenizers

from tests.parity.golden import batch_of, close, loss_of, settings, tensors
from unmask.models.checkpoints import load_model, save_model
from unmask.models.names import to_our_name
from unmask.models.shell import DiffusionModel
from unmask.models.tokenizers import load_tokenizer
from unmask.registry import FAMILIES


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden/dream"


@pytest.fixture
def model(golden: Path) -> DiffusionModel:
    return load_model(golden)


def aligned(theirs: torch.Tensor) -> torch.Tensor:
    """The reference's samplers: row i predicts token i + 1, and the first row its own token too."""
    return torch.cat([theirs[:, :1], theirs[:, :-1]], dim=1)


@torch.no_grad()
def test_logits_equal_the_reference_one_row_later(golden, model):
    given, wanted = tensors(golden, "inputs"), tensors(golden, "logits")
    close(model(given["ids"]).logits, aligned(wanted["logits_nomask"]))
    close(model(given["ids"], torch.ones_like(given["ids"])).logits, aligned(wanted["logits_ones"]))
    close(model(given["ids"]).hidden, wanted["hidden_3"])
    at = torch.tensor([0, 71, 5, 5, 24, 30])
    close(model(given["ids"], logits_at=at).logits, aligned(wanted["logits_nomask"]).flatten(0, 1)[at])


@torch.no_grad()
@pytest.mark.parametrize("case", ["right", "left", "left_pos"])
def test_logits_of_padded_rows(golden, model, case: str):
    given, wanted = tensors(golden, "inputs"), tensors(golden, "logits")
    side = case.removesuffix("_pos")
    real_BL = given[f"mask_{side}"].bool()
    positions = given["pos_left"] if case == "left_pos" else None
    logits = model(given[f"ids_{side}"], given[f"mask_{side}"], positions=positions).logits
    # the first real token behind padding is predicted by its own row here, by padding there
    follows_BL = real_BL & torch.cat([real_BL[:, :1], real_BL[:, :-1]], dim=1)
    assert follows_BL.sum() >= real_BL.sum() - 3
    close(logits[follows_BL], aligned(wanted[f"logits_{case}"])[follows_BL])
    first_BL = real_BL & ~follows_BL
    close(logits[first_BL], wanted[f"logits_{case}"][first_BL])


@torch.no_grad()
@pytest.mark.parametrize("name", ["mdlm", "dream_cart"])
def test_losses(golden, model, name: str):
    given, checked = tensors(golden, f"{name}_loss_tensors"), settings(golden, name)
    shifted = model.family
    for entry in checked:
        model.family = replace(shifted, shift=entry["right_shift_logits"])
        labels = "labels_shift" if entry["right_shift_logits"] else "labels"
        batch = batch_of(given, labels, padding_is_context=name == "dream_cart")
        torch.testing.assert_close(
            loss_of(model, entry, batch, given), torch.tensor(entry["loss"]), atol=2e-4, rtol=1e-5, msg=entry["key"]
        )
    assert len(checked) == 12 and any(entry["right_shift_logits"] for entry in checked)


def test_gradients_of_all_parameters(golden, model):
    """The stored ones are those of the run without the shift."""
    (entry,) = (entry for entry in settings(golden) if entry["key"] == "linear_scheduler_token")
    model.family = replace(model.family, shift=False)
    given = tensors(golden, "mdlm_loss_tensors")
    loss_of(model, entry, batch_of(given), given).backward()
    theirs = {to_our_name(model.family, name): value for name, value in tensors(golden, "mdlm_grads").items()}
    assert theirs.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        close(parameter.grad, theirs[name])


def test_a_saved_folder_has_their_names_and_bytes(golden, model, tmp_path: Path):
    save_model(model, tmp_path)
    assert (tmp_path / "config.json").read_text().split() == (golden / "config.json").read_text().split()
    theirs, ours = safe_open(golden / "model.safetensors", "pt"), safe_open(tmp_path / "model.safetensors", "pt")
    assert list(ours.keys()) == list(theirs.keys()) and ours.metadata() == theirs.metadata()
    for name in theirs.keys():  # noqa: SIM118
        assert torch.equal(ours.get_tensor(name), theirs.get_tensor(name))


def test_the_official_tokenizer_is_read_without_its_code(tmp_path: Path):
    """The repository has vocab.json, merges.txt and a class of its own, and no tokenizer.json."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>", "<|beginoftext|>"]
    ids = {token: 258 + number for number, token in enumerate(special)}
    vocabulary = {token: number for number, token in enumerate([*alphabet, "he", "ll"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh e\nl l\n")
    (tmp_path / "added_tokens.json").write_text(json.dumps(ids))
    added = {str(number): {"content": token, "special": True} for token, number in ids.items()}
    settings = {
        "added_tokens_decoder": added,
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "bos_token": "<|beginoftext|>",
        "eos_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "DreamTokenizer",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "tokenization_dream.py").write_text("raise SystemExit('this code ran')")
    tiny = {**FAMILIES.get("dream").tiny_config, "vocab_size": 320, "mask_token_id": ids["<|mask|>"]}
    (tmp_path / "config.json").write_text(json.dumps(tiny))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.mask_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (261, 258, 262)
    # Qwen2's rule: digits one by one, a word with the space before it
    pieces = ["he", "ll", "o", "<|mask|>", "Ġ", "1", "2"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("hello<|mask|> 12")["input_ids"]) == pieces
    tokenizer.save_pretrained(tmp_path / "again")
    (tmp_path / "again" / "config.json").write_text(json.dumps(tiny))
    assert load_tokenizer(tmp_path / "again")("hello 12")["input_ids"] == tokenizer("hello 12")["input_ids"]
