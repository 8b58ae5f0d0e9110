"""What a run is made of, from its settings: model, tokenizer, data, objective, padding policy."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed

from unmask.data.build import Splits
from unmask.data.collate import Collator
from unmask.data.prepare import cached_splits
from unmask.data.sources.named import open_sources
from unmask.data.yardstick import learned_ids, unigram_nats
from unmask.errors import ConfigError, ModelError
from unmask.models.adapters import (
    base_of,
    facts_under,
    is_adapter,
    tokenizer_folder,
)
from unmask.models.checkpoints import load_model
from unmask.models.facts import Facts, read_facts
from unmask.models.folders import resolve_folder
from unmask.models.shards import holds_weights
from unmask.models.shell import DiffusionModel
from unmask.models.tokenizers import load_tokenizer
from unmask.registry import NOISE_SCHEDULES, OBJECTIVES
from unmask.training.arguments import ObjectiveArguments, Settings, block_sizes
from unmask.training.engine import asked_for
from unmask.training.plan import Shares
from unmask.training.trained import make_trained, trained_of


@dataclass(frozen=True)
class Ingredients:
    """What a run is made of before any weight is loaded; `facts` are those of the model that it makes."""

    source: Path
    facts: Facts
    tokenizer: Any  # a PreTrainedTokenizerBase, whose ids its own types call lists and strings too
    splits: Splits
    from_scratch: bool
    yardstick: float | None = None  # nats per token of counting tokens alone, on the evaluation rows


def decided(settings: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The settings with nothing left open, and what is to be said: a checkpoint made for blocks goes on learning them.

    Raises:
        ConfigError: nobody chose an objective, and the settings do not go with blocks.
    """
    chosen, name = replace(settings, left_open=()), settings.model.model_name_or_path
    wanted = settings.objective.objective
    if not settings.left_open or not name or wanted == "autoregressive":
        return chosen, ()
    source = resolve_folder(name, weights=False)
    _refuse_an_adapter(source)
    facts = _base_facts(settings, source)
    if facts.attention != "block_causal" or (wanted == "masked" and "objective" not in settings.left_open):
        return chosen, ()
    size = settings.data.block_size
    if "block_size" in settings.left_open:
        size = facts.block_size or size
    chosen = replace(chosen, data=replace(chosen.data, block_size=size))
    if "objective" in settings.left_open:
        _refuse_whole_rows(settings, name)
        chosen = replace(chosen, objective=replace(chosen.objective, objective="block"))
    padded, length = settings.data.padding == "block", settings.data.max_length
    if padded and length % size:
        raise ConfigError(
            f"max_length ({length}) must be a multiple of block_size ({size}), for which {name} was made."
        )
    return chosen, (
        f"{name} was made for blocks: objective is block, block_size {size}. --objective masked learns whole rows.",
    )


def _refuse_whole_rows(settings: Settings, name: str) -> None:
    if settings.objective.loss_weight == "cart" or settings.model.attention_annealing_steps:
        raise ConfigError(
            f"{name} was made for blocks and would go on learning them, but loss_weight cart and "
            "attention_annealing_steps are for whole rows. Add --objective masked, or leave them out."
        )
    usual = ObjectiveArguments().time_epsilon
    if settings.objective.time_epsilon != usual and settings.objective.masking != "bernoulli":
        raise ConfigError(
            f"{name} was made for blocks and would go on learning them, by exact counts of masked tokens, of which "
            "time_epsilon would be ignored. Add --objective masked or --masking bernoulli, or leave it out."
        )


def _base_facts(settings: Settings, source: Path) -> Facts:
    """What the model that is trained was made for: the base, or the adapter on top of it."""
    facts, adapter = read_facts(source), settings.model.adapter
    return facts if adapter is None else facts_under(facts, adapter)


def _made(facts: Facts, settings: Settings) -> Facts:
    """What a model is made for that is trained as the settings say."""
    objective = settings.objective.objective
    if objective == "block":
        # no row is longer than the model, so a longer block is no other
        size = min(settings.data.block_size, facts.shape.max_length)
        stays = (facts.attention, facts.block_size) == ("block_causal", size)
        return facts if stays else facts.made_for("block_causal", size)
    if objective == "masked" and facts.attention == "block_causal":
        return facts.made_for("bidirectional")
    return facts


def gather(settings: Settings, verb: str) -> Ingredients:
    """Model facts, tokenizer and tokenised data of a run; reads, never writes to the output folder."""
    if not settings.model.model_name_or_path:
        raise ConfigError("model_name_or_path is missing. Give a folder or a Hub id.")
    source = resolve_folder(settings.model.model_name_or_path, weights=not settings.model.from_scratch)
    _refuse_an_adapter(source)
    from_scratch = settings.model.from_scratch or (verb == "pretrain" and not holds_weights(source))
    facts = _base_facts(settings, source)
    _refuse_another_kind(facts, settings.objective.objective, source)
    tokenizer = load_tokenizer(tokenizer_folder(source, settings.model.adapter), facts, add_mask_token=True)
    if settings.data.max_length > facts.shape.max_length:
        raise ConfigError(
            f"max_length is {settings.data.max_length}, the model was made for {facts.shape.max_length} positions at "
            "most. Lower max_length."
        )
    splits = _splits(settings, verb, tokenizer)
    yardstick = _yardstick(splits, facts.shape.vocab_size)
    if yardstick is not None:
        splits.notes.append(f"counting tokens alone would need {yardstick:.2f} nats/token on the evaluation rows")
    made = _made(facts, settings)
    if facts.attention == "block_causal" != made.attention:
        splits.notes.append(
            f"{source} was made for blocks; trained with objective masked it will be made for whole rows"
        )
    return Ingredients(source, made, tokenizer, splits, from_scratch, yardstick)


def _refuse_an_adapter(source: Path) -> None:
    if is_adapter(source) and not (source / "config.json").is_file():
        raise ModelError(
            f"{source} is an adapter, not a model. To train it further, give its base ({base_of(source) or 'unnamed'}) "
            "as --model_name_or_path and this folder as --adapter."
        )


def _refuse_another_kind(facts: Facts, objective: str, source: Path) -> None:
    causal = facts.family.attention == "causal"
    if causal and objective != "autoregressive":
        raise ConfigError(
            f"{source} is a {facts.family.name} model, which is autoregressive: it has no mask token and sees only "
            "what is before it. Make a diffusion model of it (unmask convert), or train it as it is "
            "(--objective autoregressive)."
        )
    if objective == "block" and facts.shape.window is not None:
        raise ConfigError(
            f"objective block needs attention over the whole row; {source} sees {facts.shape.window} tokens at a time "
            "(sliding_window). Use --objective masked."
        )
    if objective == "autoregressive" and not causal:
        raise ConfigError(
            f"objective autoregressive needs an autoregressive model (llama, mistral, qwen2 or qwen3); {source} is a "
            f"{facts.family.name} model, in which every token sees what is to be predicted. Leave --objective out."
        )


def _splits(settings: Settings, verb: str, tokenizer: Any) -> Splits:
    """The tokenised data; where evaluation is asked for and no rows are named for it, some are held out."""
    mode = "pretrain" if verb == "pretrain" else "sft"
    sources = open_sources(settings.data, mode, hold_out=settings.trainer.get("eval_strategy", "no") != "no")
    again, write = settings.data.overwrite_cache, not settings.run.dry_run
    return cached_splits(sources, settings.data, tokenizer, mode, overwrite=again, write=write)


def _yardstick(splits: Splits, vocab_size: int) -> float | None:
    if not isinstance(splits.train, Dataset) or not splits.test or not len(splits.train):
        return None
    return unigram_nats(learned_ids(splits.train), learned_ids(splits.test), vocab_size)


def objective_of(settings: Settings, verb: str, mask_token_id: int | None, *, shifted: bool = False) -> Any:
    """The objective that the settings name, made of those of the settings that it knows.

    Args:
        settings, verb: of the run. mask_token_id: of its model. shifted: row i of its network predicts token i + 1.
    """
    chosen = settings.objective
    normalization = chosen.loss_normalization
    if normalization == "auto":
        normalization = "token" if verb == "pretrain" else "sequence"
    objective = OBJECTIVES.get(chosen.objective)
    masking = chosen.masking
    if masking == "auto":
        masking = "exact_count" if chosen.objective == "block" else "bernoulli"
    offered = {
        "mask_token_id": mask_token_id,
        "schedule": NOISE_SCHEDULES.get(chosen.noise_schedule)(),
        "loss_weight": chosen.loss_weight,
        "normalization": normalization,
        "time_sampling": chosen.time_sampling,
        "time_epsilon": chosen.time_epsilon,
        "seed": settings.trainer.get("seed", 42),
        "cart_p": chosen.cart_p,
        "time_low": chosen.time_low,
        "time_high": chosen.time_high,
        "masking": masking,
        "views": chosen.noisy_views,
        "complementary": chosen.complementary_masks,
        "block_size": settings.data.block_size,
        "curriculum": block_sizes(chosen.block_curriculum),
        "halves": shifted,
    }
    return objective(**known_to(objective, offered))


def known_to(objective: Any, offered: dict[str, Any]) -> dict[str, Any]:
    """Those of the values for which the objective, or its class, has a field."""
    return {entry.name: offered[entry.name] for entry in fields(objective) if entry.name in offered}


def collator_of(settings: Settings, verb: str, tokenizer: Any) -> Collator:
    """The padding policy that the settings name; packed rows of a corpus need none."""
    return Collator(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        padding="none" if verb == "pretrain" else settings.data.padding,
        block_size=settings.data.block_size,
        max_length=settings.data.max_length,
        width=settings.data.max_length if settings.data.packing else None,
    )


def load_for_training(settings: Settings, parts: Ingredients) -> DiffusionModel:
    """The model with what is trained of it: all weights in float32, an adapter, or what `freeze` leaves."""
    chosen, seed = settings.model, settings.trainer.get("seed", 42)
    quantization = "4bit" if chosen.load_in_4bit else "8bit" if chosen.load_in_8bit else None
    set_seed(seed)
    adapted = chosen.lora or chosen.adapter is not None
    dtype = chosen.dtype
    if dtype == "auto":
        dtype = "bfloat16" if adapted and torch.cuda.is_available() else "float32"
    device = "cpu" if parts.from_scratch else _device(settings, divided=not quantization)
    model = load_model(
        parts.source, dtype=dtype, device=device, from_scratch=parts.from_scratch, seed=seed, quantization=quantization
    )
    model.config._name_or_path = str(chosen.model_name_or_path)
    if model.family.attention != "causal":
        model.mask_token_id = parts.tokenizer.mask_token_id
    model.trunk.eager_attention = chosen.attn_implementation == "eager"
    make_trained(model, trained_of(settings))
    model.facts = parts.facts
    return model


def _device(settings: Settings, *, divided: bool) -> str:
    """Where the weights are read to: the GPU they will be trained on, unless they are to be divided over several."""
    if (divided and asked_for(settings).is_divided) or settings.trainer.get("use_cpu") or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def shares_of(settings: Settings) -> Shares:
    by_tokens = settings.data.tokens_per_batch is not None
    return Shares(
        micro=1 if by_tokens else settings.trainer.get("per_device_train_batch_size", 8),
        accumulation=settings.trainer.get("gradient_accumulation_steps", 1),
        ranks=int(os.environ.get("WORLD_SIZE", "1")),
        rank=int(os.environ.get("RANK", "0")),
    )


def start_note(parts: Ingredients) -> str:
    if parts.from_scratch:
        return f"starting from scratch: only the configuration of {parts.source} is used"
    return f"starting from the weights of {parts.source}"
