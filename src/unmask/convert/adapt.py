"""An autoregressive checkpoint as a diffusion one: the same weights, seen in both directions, and a mask token.

Nothing is learned here: what comes out predicts masked tokens badly until it is trained. Weights are read tensor by
tensor and written in the target family's own layout; the folder appears when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unmask.convert.aside import built_aside, free_folder
from unmask.convert.options import AdaptArguments, Attention, Layout
from unmask.errors import ConfigError, ModelError, did_you_mean
from unmask.models.card import Card, write_card
from unmask.models.checkpoints import fill_from_files, official_tensors, save_model, tensor_reader
from unmask.models.facts import Facts, facts_of, read_facts
from unmask.models.families import ModelFamily
from unmask.models.families.llada import config_of
from unmask.models.folders import resolve_folder
from unmask.models.names import to_official_name, to_our_name
from unmask.models.shell import DiffusionModel
from unmask.models.streamed import Streamed
from unmask.models.tokenizers import load_tokenizer
from unmask.registry import FAMILIES

# families that dLLM has converted layouts for; Mistral's is Llama's without its window
_CONVERTED = {"llama": "a2d-llama", "mistral": "a2d-llama", "qwen2": "a2d-qwen2", "qwen3": "a2d-qwen3"}
_USUAL_BLOCK = 32
_ROWS = ("trunk.embed.weight", "head.weight")


@dataclass(frozen=True)
class Adapted:
    """What was done.

    Attributes:
        folder: the new checkpoint. family: its kind. mask_token_id: where its mask token is. parameters: its weights.
        notes: what a user should know, one line each.
        block_size: tokens per block, where it is made for block-causal attention.
    """

    folder: Path
    family: str
    mask_token_id: int
    parameters: int
    notes: tuple[str, ...]
    block_size: int | None = None


def adapt(name_or_path: str | os.PathLike[str], target: str | os.PathLike[str], options: AdaptArguments) -> Adapted:
    """Write the diffusion model that an autoregressive checkpoint becomes.

    Args:
        name_or_path: folder or Hub id of a Llama, Mistral, Qwen2 or Qwen3.
        target: folder of the new checkpoint; must be absent or empty.

    Raises:
        ConfigError: an option is out of its range, or the target is not empty.
        ModelError: the checkpoint is no autoregressive one, is damaged, or has no place in that layout.
        ResourceError: the target cannot be written.
    """
    _check(options)
    folder = free_folder(target)
    source = resolve_folder(name_or_path)
    facts = read_facts(source)
    if facts.family.attention != "causal":
        raise ModelError(f"{source} is a {facts.family.name} model: it is a diffusion model already. Use it as it is.")
    tokenizer = load_tokenizer(source, facts)
    family = FAMILIES.get(_CONVERTED[facts.family.name] if options.to == "a2d" else options.to)
    is_new = _add_mask_token(tokenizer, family, options.mask_token, source)
    mask_id: Any = tokenizer.mask_token_id
    rows = max(facts.shape.vocab_size, mask_id + 1)
    made = facts_of(_config(facts, family, rows, tokenizer), where=f"{source}, as {family.name}")
    if options.attention == "block_causal":
        made = made.made_for("block_causal", options.block_size or _USUAL_BLOCK)
    with torch.device("meta"):
        model = DiffusionModel(made)
        original = DiffusionModel(facts)
    # checks that all fits before anything is written, and keeps no value
    fill_from_files(original, source, device=torch.device("meta"))
    kept = original.state_dict()
    change = _with_mask_row(mask_id, rows, options) if is_new else _unchanged
    read = tensor_reader(source, facts.family)

    def make(official: str) -> Tensor:
        ours = to_our_name(family, official)
        assert ours is not None
        return change(ours, read(ours)) if ours in kept else _no_bias(ours, model)

    notes = (*_notes(facts, made), _mask_note(tokenizer, facts, is_new=is_new))
    tensors = Streamed(_empty(model, kept), make)
    card = _card(name_or_path, folder, facts, family, notes)
    with built_aside(folder) as aside:
        save_model(model, aside, tensors=tensors, max_shard_size=options.max_shard_size)
        tokenizer.save_pretrained(aside)
        write_card(aside, replace(card, block_size=made.block_size))
    return Adapted(folder, family.name, mask_id, model.num_parameters(), notes, made.block_size)


def _check(options: AdaptArguments) -> None:
    for name, known in (("to", get_args(Layout)), ("attention", get_args(Attention))):
        if (given := getattr(options, name)) not in known:
            raise ConfigError(f'{name} "{given}" is not one of {", ".join(known)}.{did_you_mean(given, known)}')
    if options.block_size is not None and options.attention != "block_causal":
        raise ConfigError(
            f"block_size is {options.block_size}, but attention is {options.attention}, which has no blocks. Give "
            "--attention block_causal too, or leave block_size out."
        )
    if options.block_size is not None and options.block_size < 1:
        raise ConfigError(f"block_size is {options.block_size}; it must be at least 1. Usual: 4 to 32.")
    if not 0 <= options.mask_noise <= 100:
        raise ConfigError(f"mask_noise is {options.mask_noise}; it must lie in 0..100. Usual: 1.")
    if options.mask_token is not None and not options.mask_token.strip():
        raise ConfigError("mask_token is empty. Leave it out, or give a text such as <|mask|>.")


def _add_mask_token(tokenizer: PreTrainedTokenizerBase, family: ModelFamily, wanted: str | None, source: Path) -> bool:
    """Give the tokenizer its mask token; whether no row of the embedding was ever trained for it."""
    known: dict[str, int] = tokenizer.get_vocab()
    text = wanted or tokenizer.mask_token or family.mask_token
    assert isinstance(text, str), "a diffusion family names its mask token"
    if text in (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token, tokenizer.pad_token):
        raise ModelError(
            f'{source}: mask_token "{text}" means something else already: text could hold it. Name another one, or '
            "leave mask_token out."
        )
    is_new = text not in known
    if is_new:
        tokenizer.add_special_tokens({"mask_token": text})
    else:
        tokenizer.mask_token = text
    return is_new


def _config(facts: Facts, family: ModelFamily, rows: int, tokenizer: Any) -> dict[str, Any]:
    """The official configuration of the new checkpoint."""
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    ids["mask_token_id"] = tokenizer.mask_token_id
    if family.name == "llada":
        try:
            return {**config_of(replace(facts.shape, vocab_size=rows)), **ids}
        except ValueError as error:
            raise ModelError(
                f"a {facts.family.name} model cannot be written as llada: {error}. Use --to a2d."
            ) from None
    if family.name == "dream":
        return {**_dream_config(facts, rows), **ids}
    kept = {key: value for key, value in facts.config.items() if key != "sliding_window"}
    named = {"model_type": family.model_type, "architectures": [family.architecture], "vocab_size": rows}
    # left out, Llama's own defaults would be read for Mistral's
    sizes = {"num_key_value_heads": facts.shape.kv_heads, "max_position_embeddings": facts.shape.max_length}
    return {**kept, **sizes, **named, **ids}


def _dream_config(facts: Facts, rows: int) -> dict[str, Any]:
    """Dream's is Qwen2's network: biases on queries, keys and values (zeros where there are none), heads of D / H."""
    shape = facts.shape
    if shape.qk_norm or shape.head_width * shape.heads != shape.width:
        what = "norms on queries and keys" if shape.qk_norm else "heads that are not as wide as D / H"
        raise ModelError(f"a {facts.family.name} model cannot be written as dream: it has {what}. Use --to a2d.")
    slowed = dict(facts.config.get("rope_parameters") or facts.config.get("rope_scaling") or {})
    slowed.pop("rope_theta", None)
    if length := facts.config.get("original_max_position_embeddings"):
        slowed["original_max_position_embeddings"] = length
    return {
        "model_type": "Dream",
        "architectures": ["DreamModel"],
        "auto_map": {
            "AutoConfig": "Dream-org/Dream-v0-Base-7B--configuration_dream.DreamConfig",
            "AutoModel": "Dream-org/Dream-v0-Base-7B--modeling_dream.DreamModel",
        },
        "bos_token_id": facts.config.get("bos_token_id"),
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp_width,
        "initializer_range": shape.init_std,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": slowed if shape.rope_scaling else None,
        "tie_word_embeddings": shape.tied,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.max_length,
        "vocab_size": rows,
    }


def _empty(model: DiffusionModel, kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is to be written, without values, each in the type that it has in the original."""
    types = {to_official_name(model.family, name): tensor.dtype for name, tensor in kept.items()}
    usual = kept["trunk.embed.weight"].dtype
    return {name: tensor.to(types.get(name, usual)) for name, tensor in official_tensors(model).items()}


def _no_bias(name: str, model: DiffusionModel) -> Tensor:
    """What a layout has and the original has not: a bias that adds nothing."""
    assert name.endswith(".bias"), name
    return torch.zeros(model.state_dict()[name].shape)


def _unchanged(_name: str, stored: Tensor) -> Tensor:
    return stored


def _with_mask_row(mask_id: int, rows: int, options: AdaptArguments) -> Callable[[str, Tensor], Tensor]:
    """Makes room for the mask token in embedding and head, and puts the mean of all other rows, plus noise, there."""

    def change(name: str, stored: Tensor) -> Tensor:
        if name not in _ROWS:
            return stored
        trained = stored[:mask_id].float()
        generator = torch.Generator().manual_seed(options.seed + _ROWS.index(name))
        noise = torch.randn(stored.shape[1], generator=generator) * trained.std(0)
        grown = torch.cat([stored, stored.new_zeros(rows - len(stored), stored.shape[1])])
        grown[mask_id] = (trained.mean(0) + options.mask_noise * noise).to(stored.dtype)
        return grown

    return change


def _notes(facts: Facts, made: Facts) -> tuple[str, ...]:
    seen = "every token now sees every other"
    if made.attention == "block_causal":
        seen = f"every token now sees its block of {made.block_size} and those before it"
    shift = "now predicts token i; before, token i + 1"
    if made.family.shift:
        shift = "goes on predicting token i + 1"
    notes = (f"{seen}; before, only those that precede it", f"row i {shift}")
    window = facts.shape.window
    if window is not None and window < facts.shape.max_length:
        notes += (f"the sliding window of {window:,} tokens is dropped: beyond it, attention was never trained",)
    return notes


def _mask_note(tokenizer: Any, facts: Facts, *, is_new: bool) -> str:
    mask_id, rows = tokenizer.mask_token_id, facts.shape.vocab_size
    where = "the tokenizer had it, its embedding is kept"
    if is_new:
        row = "a spare row of the embedding" if mask_id < rows else f"a new row of the embedding, which had {rows:,}"
        where = f"{row}, filled with the mean of the others and noise"
    return f"mask token {tokenizer.mask_token}, id {mask_id}: {where}"


def _card(
    name: str | os.PathLike[str], folder: Path, facts: Facts, family: ModelFamily, notes: tuple[str, ...]
) -> Card:
    base = os.fspath(name)
    summary = (
        f"The weights of `{base}`, a {facts.family.name} model, in the layout of {family.name}, as `unmask convert` "
        "wrote them. **Not trained since**: it predicts masked tokens badly until `unmask pretrain`, then "
        "`unmask sft`, have been run on it."
    )
    done = "\n".join(f"* {note}" for note in notes)
    return Card(folder.name, summary, family.name, base=base, sections=(("What was done", done),))
