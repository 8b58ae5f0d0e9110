"""What comes out of a conversion is the source, tensor for tensor, and can be loaded, sampled from and trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import unmask
from tests import tiny
from tests.models.tiny import build
from tests.stories import write_llama
from unmask.convert.adapt import adapt
from unmask.convert.options import AdaptArguments
from unmask.errors import ConfigError, ModelError
from unmask.models.checkpoints import load_model, save_model
from unmask.registry import FAMILIES
from unmask.training.arguments import Settings
from unmask.training.run import train
from unmask.types import AttentionSpec

SIZE = {"vocab_size": 262, "max_position_embeddings": 64, "eos_token_id": 1}
SPARE = {**SIZE, "vocab_size": 272}
KINDS = {"llama": "a2d-llama", "mistral": "a2d-llama", "qwen2": "a2d-qwen2", "qwen3": "a2d-qwen3"}
IDS = torch.randint(6, 262, (2, 20), generator=torch.Generator().manual_seed(0))


def source(folder: Path, name: str, **changes: Any) -> Path:
    """A checkpoint of random weights with a tokenizer of 262 bytes and marks, none of them a mask."""
    model = build(folder / "config", FAMILIES.get(name), **{**SIZE, **changes})
    save_model(model, folder)
    tiny.write_tokenizer(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["mask_token"]
    file.write_text(json.dumps(settings))
    return folder


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("name", "to"), [(name, to) for name in KINDS for to in ("a2d", "llada", "dream")][:-2])
def test_seen_causally_the_new_model_says_what_the_old_one_said(name: str, to: str, tied: bool, tmp_path: Path) -> None:
    old = source(tmp_path / "old", name, tie_word_embeddings=tied)
    done = adapt(old, tmp_path / "new", AdaptArguments(to=to))  # type: ignore[arg-type]
    before, after = load_model(old), load_model(tmp_path / "new")
    assert done.family == after.family.name == (KINDS[name] if to == "a2d" else to)
    assert (after.head.weight is after.trunk.embed.weight) == tied
    logits = after(IDS, attention=AttentionSpec("causal")).logits
    if to == "dream":  # its rows go on predicting the next token, and its logits are aligned
        torch.testing.assert_close(logits[:, 1:, :262], before(IDS).logits[:, :-1], atol=1e-5, rtol=1e-5)
    else:
        torch.testing.assert_close(logits[..., :262], before(IDS).logits, atol=1e-5, rtol=1e-5)
    assert any("goes on predicting" in note for note in done.notes) == (to == "dream")
    assert (after(IDS).logits[:, 0, :262] - logits[:, 0, :262]).abs().max() > 1e-2


@pytest.mark.parametrize("name", KINDS)
def test_every_tensor_is_kept_and_one_row_is_added(name: str, tmp_path: Path) -> None:
    old = source(tmp_path / "old", name, tie_word_embeddings=False)
    done = adapt(old, tmp_path / "new", AdaptArguments(max_shard_size="20KB"))
    before, after = load_model(old).state_dict(), load_model(tmp_path / "new").state_dict()
    assert before.keys() == after.keys()
    assert len(list((tmp_path / "new").glob("*.safetensors"))) > 1
    for key, tensor in after.items():
        kept = tensor[:262] if key in ("trunk.embed.weight", "head.weight") else tensor
        assert torch.equal(kept, before[key]), key
    assert len(after["trunk.embed.weight"]) == 263 and done.mask_token_id == 262


def test_the_new_row_is_the_mean_of_the_others_and_noise_of_their_size(tmp_path: Path) -> None:
    old = source(tmp_path / "old", "llama", hidden_size=512, num_attention_heads=8, num_key_value_heads=8)
    rows = {}
    for noise in (0.0, 1.0):
        adapt(old, tmp_path / str(noise), AdaptArguments(mask_noise=noise))
        rows[noise] = load_model(tmp_path / str(noise)).trunk.embed.weight.detach()
    others = rows[0.0][:262]
    torch.testing.assert_close(rows[0.0][262], others.mean(0), atol=1e-6, rtol=0)
    spread = ((rows[1.0][262] - others.mean(0)) / others.std(0)).std()
    assert spread.item() == pytest.approx(1.0, abs=0.15)


def test_a_spare_row_is_used_where_there_is_one(tmp_path: Path) -> None:
    old = source(tmp_path / "old", "qwen2", **SPARE)
    done = adapt(old, tmp_path / "new", AdaptArguments())
    before, after = load_model(old).trunk.embed.weight, load_model(tmp_path / "new").trunk.embed.weight
    assert done.mask_token_id == 262 and len(after) == len(before) == 272
    assert not torch.equal(before[262], after[262])
    assert torch.equal(before[263:], after[263:]) and torch.equal(before[:262], after[:262])
    assert any("id 262: a spare row" in note for note in done.notes)


def test_a_token_of_the_tokenizer_can_be_the_mask(tmp_path: Path) -> None:
    old = source(tmp_path / "old", "llama")
    done = adapt(old, tmp_path / "new", AdaptArguments(mask_token="<|mdm_mask|>"))
    assert done.mask_token_id == 0 and any("its embedding is kept" in note for note in done.notes)
    assert torch.equal(load_model(old).trunk.embed.weight, load_model(tmp_path / "new").trunk.embed.weight)
    assert unmask.load(tmp_path / "new", device="cpu").tokenizer.mask_token == "<|mdm_mask|>"


def test_a_window_is_dropped_and_said(tmp_path: Path) -> None:
    old = source(tmp_path / "old", "mistral", sliding_window=8)
    done = adapt(old, tmp_path / "new", AdaptArguments(to="llada"))
    assert any("sliding window of 8 tokens is dropped" in note for note in done.notes)
    assert "sliding window of 8" in (tmp_path / "new" / "README.md").read_text()
    assert load_model(tmp_path / "new").facts.shape.window is None
    silent = adapt(source(tmp_path / "wide", "mistral", sliding_window=64), tmp_path / "two", AdaptArguments())
    assert not any("window" in note for note in silent.notes)


def test_llada_keys_are_those_of_the_official_code(shared: Path, tmp_path: Path) -> None:
    """The official configuration class takes no other, and what it was saved with is in the golden file."""
    adapt(source(tmp_path / "old", "mistral"), tmp_path / "new", AdaptArguments(to="llada"))
    written = json.loads((tmp_path / "new" / "config.json").read_text())
    official = json.loads((shared / "golden" / "llada" / "config.json").read_text())
    assert set(written) - set(official) == {"auto_map"}
    differ = {key for key in written.keys() & official.keys() if written[key] != official[key]}
    # sizes and ids; whatever else differed would be another network
    assert differ <= {
        *("d_model", "n_kv_heads", "n_layers", "mlp_hidden_size", "vocab_size", "embedding_size"),
        *("max_sequence_length", "eos_token_id", "pad_token_id", "mask_token_id"),
    }


def test_dream_keys_are_those_of_the_official_code(shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden" / "dream"
    if not (golden / "config.json").is_file():
        pytest.skip("the golden folder of Dream is absent")
    adapt(source(tmp_path / "old", "llama", rope_scaling=LINEAR), tmp_path / "new", AdaptArguments(to="dream"))
    written = json.loads((tmp_path / "new" / "config.json").read_text())
    official = json.loads((golden / "config.json").read_text())
    assert set(written) - set(official) <= {"auto_map", "rope_theta", "rope_scaling", "dtype", "torch_dtype"}
    assert (written["rope_theta"], written["rope_scaling"]) == (10000.0, LINEAR)
    biases = {n: t for n, t in load_model(tmp_path / "new").state_dict().items() if n.endswith(".bias")}
    assert len(biases) == 6 and not any(bias.any() for bias in biases.values())


@pytest.mark.parametrize("to", ["a2d", "llada", "dream"])
def test_a_model_made_for_blocks_says_so_and_writes_so(to: str, tmp_path: Path) -> None:
    old = source(tmp_path / "old", "llama")
    made = {
        name: adapt(old, tmp_path / name, AdaptArguments(to=to, attention="block_causal", block_size=size))  # type: ignore[arg-type]
        for name, size in (("usual", None), ("four", 4))
    }
    assert "its block of 32 and those before it" in made["usual"].notes[0]
    lm = unmask.load(tmp_path / "four", device="cpu")
    assert (lm.model.facts.attention, lm.model.facts.block_size) == ("block_causal", 4)
    settings = {"max_new_tokens": 12, "block_size": 4, "steps": 12}
    out = lm.generate([[7, 8, 9]], **settings)[0].token_ids
    # blocks that are seen by none before them could as well be absent
    assert out[:5] == lm.generate([[7, 8, 9]], **{**settings, "max_new_tokens": 5})[0].token_ids
    assert out == lm.generate([[7, 8, 9]], attention="block_causal", **settings)[0].token_ids
    assert out != lm.generate([[7, 8, 9]], attention="bidirectional", **settings)[0].token_ids
    lm.save(tmp_path / "saved")
    again = load_model(tmp_path / "saved").facts
    assert (again.attention, again.block_size) == ("block_causal", 4)


@torch.no_grad()
def test_blocks_are_what_transformers_computes_under_such_a_mask(tmp_path: Path) -> None:
    """Its own Llama takes the configuration as it is, keys of ours included."""
    from transformers import LlamaConfig, LlamaForCausalLM

    new = tmp_path / "new"
    adapt(source(tmp_path / "old", "llama"), new, AdaptArguments(attention="block_causal", block_size=4))
    config = json.loads((new / "config.json").read_text())
    theirs = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="eager")).eval()
    theirs.load_state_dict(load_file(new / "model.safetensors"))
    block_L = torch.arange(20) // 4
    hidden = torch.zeros(1, 1, 20, 20).masked_fill(block_L[:, None] < block_L, float("-inf"))
    spec = AttentionSpec("block_causal", block_BL=block_L[None])
    expected = theirs(IDS, attention_mask=hidden).logits
    torch.testing.assert_close(load_model(new)(IDS, attention=spec).logits, expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("to", ["a2d", "dream"])
@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "yarn", "factor": 4.0},
        {"rope_type": "longrope", "short_factor": [1.0, 1.2, 2.0, 4.0], "long_factor": [1.0, 3.0, 5.0, 9.0]},
    ],
)
def test_slowed_positions_stay_slowed(scaling: dict[str, Any], to: str, tmp_path: Path) -> None:
    old = source(tmp_path / "old", "qwen2", rope_scaling=scaling, original_max_position_embeddings=16)
    adapt(old, tmp_path / "new", AdaptArguments(to=to))  # type: ignore[arg-type]
    before, after = load_model(old), load_model(tmp_path / "new")
    assert after.facts.shape.rope_scaling == before.facts.shape.rope_scaling
    logits = after(IDS, attention=AttentionSpec("causal")).logits[..., :262]
    shifted = (logits[:, 1:], before(IDS).logits[:, :-1]) if to == "dream" else (logits, before(IDS).logits)
    torch.testing.assert_close(*shifted, atol=1e-5, rtol=1e-5)


LINEAR = {"rope_type": "linear", "factor": 2.0}
REFUSALS: dict[str, tuple[str, dict[str, Any], AdaptArguments]] = {
    "cannot be written as llada: LLaDA knows no scaling of rotary positions.*linear.*Use --to a2d": (
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        AdaptArguments(to="llada"),
    ),
    "LLaDA's heads are D / H wide, 8, and these are 16": ("mistral", {"head_dim": 16}, AdaptArguments(to="llada")),
    "LLaDA has no norm on queries and keys": ("qwen3", {"head_dim": 8}, AdaptArguments(to="llada")),
    "cannot be written as dream: it has heads that are not as wide as D / H. Use --to a2d": (
        "mistral",
        {"head_dim": 16},
        AdaptArguments(to="dream"),
    ),
    "it has norms on queries and keys. Use --to a2d": ("qwen3", {"head_dim": 8}, AdaptArguments(to="dream")),
    '"<\\|endoftext\\|>" means something else already': ("llama", {}, AdaptArguments(mask_token="<|endoftext|>")),
    "this a2d-llama model: block_size is 65; it must be a whole number from 1 to 64": (
        "llama",
        {},
        AdaptArguments(attention="block_causal", block_size=65),
    ),
    "it is a diffusion model already": ("a2d-llama", {}, AdaptArguments()),
}


@pytest.mark.parametrize("phrase", REFUSALS)
def test_what_has_no_place_is_refused_and_nothing_is_written(phrase: str, tmp_path: Path) -> None:
    name, changes, options = REFUSALS[phrase]
    old = source(tmp_path / "old", name, **changes)
    with pytest.raises(ModelError, match=phrase):
        adapt(old, tmp_path / "new", options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"to": "lada"}, 'to "lada" is not one of a2d, llada, dream. Did you mean "llada"'),
        ({"attention": "block-causal"}, 'attention "block-causal" is not one of.*Did you mean "block_causal"'),
        ({"block_size": 4}, "block_size is 4, but attention is bidirectional, which has no blocks"),
        ({"attention": "block_causal", "block_size": 0}, "block_size is 0; it must be at least 1"),
        ({"mask_noise": -1.0}, "mask_noise is -1.0; it must lie in 0..100"),
        ({"mask_token": " "}, "mask_token is empty"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], phrase: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=phrase):
        adapt(tmp_path / "old", tmp_path / "new", AdaptArguments(**options))


def test_a_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    tiny.write_texts(tmp_path / "mine.txt")
    with pytest.raises(ConfigError, match=r"mine\.txt exists and is not empty. Choose another folder"):
        adapt(tmp_path / "old", tmp_path / "mine.txt", AdaptArguments())


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    adapt(source(tmp_path / "old", "llama"), tmp_path / "new", AdaptArguments())
    assert load_model(tmp_path / "new").family.name == "a2d-llama"


def test_half_a_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = source(tmp_path / "old", "llama")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adapt(old, tmp_path / "new", AdaptArguments())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


@pytest.mark.parametrize("to", ["llada", "a2d", "dream"])
def test_a_real_model_converted_learns(
    shared: Path, texts: Path, settings: Callable[..., Settings], tmp_path: Path, to: str
) -> None:
    old = write_llama(tmp_path / "llama", shared / "data" / "weights_stories260k")
    adapt(old, tmp_path / "new", AdaptArguments(to=to))  # type: ignore[arg-type]
    lm = unmask.load(tmp_path / "new", device="cpu")
    assert lm.model.facts.shape.vocab_size == 513 and lm.tokenizer.mask_token_id == 512
    with torch.no_grad():
        ids = torch.tensor([lm.tokenizer("Once upon a time, there was a little girl")["input_ids"]])
        causal = lm.model(ids, attention=AttentionSpec("causal")).logits[..., :512]
        before = load_model(old)(ids).logits
        if to == "dream":
            causal, before = causal[:, 1:], before[:, :-1]
        torch.testing.assert_close(causal, before, atol=1e-4, rtol=1e-5)
    assert len(lm.generate("Once upon", max_new_tokens=4, steps=4)[0].token_ids) <= 4
    chosen = settings(
        model_name_or_path=str(tmp_path / "new"), dataset_args=str(texts), max_length=64, max_steps=30, logging_steps=5
    )
    losses = [line["unscaled_loss"] for line in train(chosen, verb="pretrain", console=Console(quiet=True)).history]
    assert losses[-1] < 0.8 * losses[0]
