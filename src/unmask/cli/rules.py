"""What settings of a training run may be, alone and together; each broken rule is one message.

Only what can be known without reading the model or the data.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unmask.cli.config import ADAPTER_OPTIONS, Parsed
from unmask.cli.yaml_file import Given
from unmask.errors import ConfigError, ResourceError, did_you_mean
from unmask.registry import NOISE_SCHEDULES
from unmask.training.arguments import block_sizes
from unmask.training.fields import REFUSED_OPTIMIZERS, trackers

INFINITY = math.inf
# of numpy's older generators, which transformers seeds too
LARGEST_SEED = 2**32 - 1

# name -> (allowed, in words, and as a test); None is always allowed.
RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "learning_rate": ("> 0", lambda value: 0 < value < INFINITY),
    "time_epsilon": ("in (0, 1)", lambda value: 0 < value < 1),
    "cart_p": ("in (0, 1]", lambda value: 0 < value <= 1),
    "time_low": ("in [0, 1)", lambda value: 0 <= value < 1),
    "time_high": ("in (0, 1]", lambda value: 0 < value <= 1),
    "noisy_views": (">= 1", lambda value: value >= 1),
    "eval_nll_samples": (">= 1", lambda value: value >= 1),
    "max_length": (">= 1", lambda value: value >= 1),
    "num_proc": (">= 1", lambda value: value >= 1),
    "block_size": (">= 1", lambda value: value >= 1),
    "packed_eos": (">= 0", lambda value: value >= 0),
    "tokens_per_batch": (">= 1", lambda value: value >= 1),
    "random_length_ratio": ("in [0, 1]", lambda value: 0 <= value <= 1),
    "r": (">= 1", lambda value: value >= 1),
    "lora_alpha": ("> 0", lambda value: value > 0),
    "lora_dropout": ("in [0, 1)", lambda value: 0 <= value < 1),
    "per_device_train_batch_size": (">= 1", lambda value: value >= 1),
    "per_device_eval_batch_size": (">= 1", lambda value: value >= 1),
    "gradient_accumulation_steps": (">= 1", lambda value: value >= 1),
    "num_train_epochs": ("> 0", lambda value: 0 < value < INFINITY),
    "max_steps": (">= 1, or -1 to count epochs", lambda value: value >= 1 or value == -1),
    "warmup_steps": (">= 0; below 1 it is a fraction of the run", lambda value: 0 <= value < INFINITY),
    "max_grad_norm": (">= 0", lambda value: value >= 0),
    "weight_decay": (">= 0", lambda value: 0 <= value < INFINITY),
    "adam_beta1": ("in [0, 1)", lambda value: 0 <= value < 1),
    "adam_beta2": ("in [0, 1)", lambda value: 0 <= value < 1),
    "adam_epsilon": ("> 0", lambda value: 0 < value < INFINITY),
    "logging_steps": ("> 0", lambda value: 0 < value < INFINITY),
    "eval_steps": ("> 0", lambda value: 0 < value < INFINITY),
    "eval_delay": (">= 0", lambda value: 0 <= value < INFINITY),
    "save_steps": ("> 0", lambda value: 0 < value < INFINITY),
    "attention_annealing_steps": (">= 0", lambda value: value >= 0),
    "mask_noise_steps": (">= 0", lambda value: value >= 0),
    "sample_every": (">= 1", lambda value: value >= 1),
    "sample_new_tokens": (">= 1", lambda value: value >= 1),
    "peak_tflops": ("> 0", lambda value: 0 < value < INFINITY),
    "save_total_limit": (">= 2, so one complete checkpoint always remains", lambda value: value >= 2),
    "dataloader_num_workers": (">= 0", lambda value: value >= 0),
    "seed": (f"from 0 to {LARGEST_SEED:,}", lambda value: 0 <= value <= LARGEST_SEED),
}

ONLY_FOR = {
    "sft": ("truncation", "mask_prompt_loss", "train_turns", "padding", "packed_eos"),
    "pretrain": ("text_field", "insert_eos", "drop_tail", "random_length_ratio"),
}
MASKED_ONLY = (
    "noise_schedule",
    "time_sampling",
    "time_epsilon",
    "loss_weight",
    "cart_p",
    "attention_annealing_steps",
    "mask_noise_steps",
    "time_low",
    "time_high",
    "masking",
    "noisy_views",
    "complementary_masks",
    "block_curriculum",
    "eval_nll_samples",
)
# What evaluation reports.
METRICS = ("loss", "nll", "unscaled_loss")

# Trackers whose package has their name; the others say themselves what they need.
PACKAGES = ("wandb", "swanlab", "tensorboard", "trackio", "mlflow", "clearml", "comet_ml")

# learning-rate schedule -> settings of which it needs one.
SCHEDULE_NEEDS = {
    "warmup_stable_decay": ("num_decay_steps",),
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
}
USUAL_LEARNING_RATE = 1e-3
LARGEST_SENSIBLE_LEARNING_RATE = 0.1


def check(parsed: Parsed, verb: str) -> Parsed:
    """The same settings, with notes about what is unusual.

    Raises:
        ConfigError: a setting is missing, out of range, or at odds with another.
    """
    for rule in (
        _present,
        _ranges,
        _names,
        _trackers,
        _learning_rate_schedule,
        _adapter,
        _blocks,
        _rows,
        _noise,
        _times,
        _precision,
        _evaluation,
        _loader,
        _folder,
    ):
        rule(parsed)
    for name in ONLY_FOR["pretrain" if verb == "sft" else "sft"]:
        if name in parsed:
            parsed = parsed.noted(f"note: {name} has no effect in {verb}")
    return _large_learning_rate(_objective(parsed))


def _objective(parsed: Parsed) -> Parsed:
    """An autoregressive model knows no noise, and learns where an answer ends from its one last token."""
    if parsed["objective"] != "autoregressive":
        return parsed
    for name in MASKED_ONLY:
        if name in parsed:
            raise ConfigError(
                f"{parsed.label(name)} is set but objective is autoregressive, which draws no noise; it would be "
                "ignored. Leave it out."
            )
    if (parsed["metric_for_best_model"] or "").endswith("unscaled_loss"):
        raise ConfigError("metric_for_best_model: objective autoregressive reports loss and nll. Choose one of them.")
    return parsed if "padding" in parsed else parsed.put("padding", "none", Given("padding", None))


def _noise(parsed: Parsed) -> None:
    """What blocks and clipped noise go with."""
    block_sizes(parsed["block_curriculum"])
    if parsed["objective"] == "masked" and parsed["block_curriculum"] is not None:
        raise ConfigError(
            f"{parsed.label('block_curriculum')} is set but objective is masked, which knows no blocks; it would be "
            "ignored. Add --objective block, or leave it out."
        )
    if parsed["objective"] == "block":
        if parsed["loss_weight"] == "cart":
            raise ConfigError(
                f"{parsed.label('loss_weight')}: cart looks at the clean tokens on both sides of a masked one, and "
                "objective block hides those behind its block. Use elbo or uniform."
            )
        if parsed["attention_annealing_steps"]:
            raise ConfigError(
                f"{parsed.label('attention_annealing_steps')} opens attention from causal to full, which objective "
                "block does not use. Leave it out; --block_curriculum 1:500,4:500 grows blocks from single tokens."
            )
    if "cart_p" in parsed and parsed["loss_weight"] != "cart" and parsed["objective"] != "autoregressive":
        raise ConfigError(
            f"{parsed.label('cart_p')} is set but loss_weight is {parsed['loss_weight']}; it would be ignored. Add "
            "--loss_weight cart, or leave it out."
        )


def _times(parsed: Parsed) -> None:
    """There are times to draw."""
    low, high, epsilon = parsed["time_low"], parsed["time_high"], parsed["time_epsilon"]
    if low >= high:
        raise ConfigError(
            f"time_low ({low}) must be below time_high ({high}): they bound the times that training draws."
        )
    if parsed["masking"] == "exact_count" or (parsed["masking"] == "auto" and parsed["objective"] == "block"):
        if "time_epsilon" in parsed:
            raise ConfigError(
                f"{parsed.label('time_epsilon')} is the smallest time where tokens are masked one by one, but masking "
                "is exact_count; it would be ignored. Add --masking bernoulli, or leave it out."
            )
        return
    cure = "Lower time_epsilon, or use --masking exact_count."
    if epsilon >= high:
        raise ConfigError(
            f"time_high ({high}) must be above time_epsilon ({epsilon}), the smallest time where tokens are masked one "
            f"by one. {cure}"
        )
    least, most = max(low, epsilon), min(high, 1 - epsilon)
    if parsed["complementary_masks"] and least >= most:
        raise ConfigError(
            f"complementary_masks leave no time to draw: from {least:g} (time_low or time_epsilon) to {most:g}, since "
            f"a complement is noised at 1 - t, which must not be below time_epsilon either. {cure}"
        )


def _present(parsed: Parsed) -> None:
    if parsed["model_name_or_path"] is None:
        raise ConfigError("no model is named. Give --model_name_or_path FOLDER_OR_HUB_ID.")
    if parsed["dataset_args"] is None:
        raise ConfigError('no data is named. Give --dataset_args, for example "data/train.jsonl[test:100]".')
    if parsed["output_dir"] is None and not parsed["dry_run"]:
        raise ConfigError("no output folder is named. Give --output_dir FOLDER.")
    for name in ("model_name_or_path", "dataset_args", "output_dir"):
        if parsed[name] is not None and not parsed[name].strip():
            raise ConfigError(f"{parsed.label(name)} is empty.")


def _ranges(parsed: Parsed) -> None:
    for name, (allowed, holds) in RANGES.items():
        value = parsed[name]
        if value is not None and not holds(value):
            raise ConfigError(f"{parsed.label(name)} must be {allowed}; got {value}.")


def _names(parsed: Parsed) -> None:
    schedule, known = parsed["noise_schedule"], NOISE_SCHEDULES.names()
    if schedule not in known:
        raise ConfigError(
            f'{parsed.label("noise_schedule")}: "{schedule}" is not one of {", ".join(known)}.'
            f"{did_you_mean(schedule, known)}"
        )
    optimizer = parsed["optim"]
    if optimizer in REFUSED_OPTIMIZERS or str(optimizer).endswith("_layerwise"):
        raise ConfigError(
            f"{parsed.label('optim')}: {optimizer} updates weights during the backward pass, before the gradients of "
            "all micro-batches are summed. Use adamw_torch, or another one that steps once per update."
        )


def _trackers(parsed: Parsed) -> None:
    asked = parsed["report_to"] or "none"
    known = ("none", "all", *trackers())
    names = [asked] if isinstance(asked, str) else asked
    for name in names:
        if name not in known:
            raise ConfigError(
                f'{parsed.label("report_to")}: "{name}" is not one of {", ".join(known)}.{did_you_mean(name, known)}'
            )
    absent = [name for name in names if name in PACKAGES and find_spec(name) is None]
    if absent and not parsed["dry_run"]:
        raise ResourceError(
            f"{parsed.label('report_to')}: {absent[0]} is not installed. Install it: pip install {absent[0]}"
        )


def _adapter(parsed: Parsed) -> None:
    idle = [name for name in ADAPTER_OPTIONS if name in parsed]
    on = parsed["lora"] or parsed["adapter"] is not None
    if idle and not on:
        raise ConfigError(
            f"{parsed.label(idle[0])} is set but lora is off; it would be ignored. Add --lora, or leave it out."
        )
    if parsed["load_in_4bit"] and parsed["load_in_8bit"]:
        raise ConfigError("load_in_4bit and load_in_8bit exclude each other. Give one of them.")
    for name in ("load_in_4bit", "load_in_8bit"):
        if parsed[name] and not on:
            raise ConfigError(f"{parsed.label(name)}: quantised weights cannot be trained. Add --lora.")


def _learning_rate_schedule(parsed: Parsed) -> None:
    kind, given = parsed["lr_scheduler_type"], parsed["lr_scheduler_kwargs"] or {}
    needed = SCHEDULE_NEEDS.get(kind, ())
    if needed and isinstance(given, dict) and not set(needed) & set(given):
        raise ConfigError(
            f"lr_scheduler_type {kind} needs {' or '.join(needed)} in lr_scheduler_kwargs. "
            f"Example: lr_scheduler_kwargs: {{{needed[0]}: {'1e-6' if 'lr' in needed[0] else '100'}}}"
        )


def _blocks(parsed: Parsed) -> None:
    length, block = parsed["max_length"], parsed["block_size"]
    if parsed["padding"] == "block" and length % block:
        below = length // block * block
        nearest = f"{below} or {below + block}" if below else str(block)
        raise ConfigError(f"max_length ({length}) must be a multiple of block_size ({block}). Nearest: {nearest}.")


def _rows(parsed: Parsed) -> None:
    """How samples share rows, and rows forwards."""
    packed, by_tokens = parsed["packing"], parsed["tokens_per_batch"] is not None
    if packed and by_tokens:
        raise ConfigError(
            "packing and tokens_per_batch exclude each other: packed rows are all as long as max_length, and "
            "per_device_train_batch_size counts them. Give one of them."
        )
    if "packed_eos" in parsed and not (packed and parsed["padding"] == "eos"):
        raise ConfigError(
            f"{parsed.label('packed_eos')} is set but rows are not packed with padding eos; it would be ignored. Add "
            "--packing true, or leave it out."
        )
    if by_tokens and "per_device_train_batch_size" in parsed:
        raise ConfigError(
            f"{parsed.label('tokens_per_batch')}: tokens decide how many rows a forward has, so "
            "per_device_train_batch_size would be ignored. Give one of them."
        )
    if by_tokens and parsed["streaming"]:
        raise ConfigError(
            f"{parsed.label('tokens_per_batch')} puts rows of similar length together, which a stream does not know "
            "beforehand. Leave streaming out, or use --packing true."
        )


def _precision(parsed: Parsed) -> None:
    if parsed["bf16"] and parsed["fp16"]:
        raise ConfigError("bf16 and fp16 exclude each other. Give one of them.")
    if "checkpointing_strategy" in parsed and not parsed["gradient_checkpointing"]:
        raise ConfigError(
            f"{parsed.label('checkpointing_strategy')} is set but gradient_checkpointing is off; it would be ignored. "
            "Add --gradient_checkpointing."
        )


def _evaluation(parsed: Parsed) -> None:
    metric = parsed["metric_for_best_model"]
    if metric is not None and metric.removeprefix("eval_") not in METRICS:
        raise ConfigError(
            f'{parsed.label("metric_for_best_model")}: "{metric}" is not one of {", ".join(METRICS)}.'
            f"{did_you_mean(metric, METRICS)}"
        )
    evaluation, save = parsed["eval_strategy"], parsed["save_strategy"]
    if not parsed["load_best_model_at_end"]:
        return
    if evaluation == "no":
        raise ConfigError("load_best_model_at_end needs evaluation. Add --eval_strategy steps.")
    if save == "best":
        return
    if save != evaluation:
        raise ConfigError(
            f"load_best_model_at_end needs eval_strategy and save_strategy to be equal; got {evaluation} and {save}."
        )
    every = parsed["eval_steps"] or parsed["logging_steps"]
    quotient = parsed["save_steps"] / every
    if save == "steps" and abs(quotient - round(quotient)) > 1e-6:
        raise ConfigError(
            f"load_best_model_at_end needs save_steps ({parsed['save_steps']}) to be a multiple of "
            f"eval_steps ({every})."
        )


def _loader(parsed: Parsed) -> None:
    if parsed["dataloader_prefetch_factor"] is not None and parsed["dataloader_num_workers"] == 0:
        raise ConfigError("dataloader_prefetch_factor needs dataloader_num_workers above 0.")


def _folder(parsed: Parsed) -> None:
    """The folders of a run can be written; nothing is created to find out."""
    for name in ("output_dir", "logging_dir"):
        if parsed[name] is None:
            continue
        folder = Path(parsed[name])
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.is_dir():
            raise ConfigError(f"{parsed.label(name)}: {there} is a file, not a folder. Choose another {name}.")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(
                f"{parsed.label(name)}: cannot write to {there}: permission denied. Choose another {name}."
            )


def _large_learning_rate(parsed: Parsed) -> Parsed:
    rate = parsed["learning_rate"]
    if rate <= LARGEST_SENSIBLE_LEARNING_RATE:
        return parsed
    times = f"{rate / USUAL_LEARNING_RATE:,.0f}"
    return parsed.noted(f"warning: learning_rate {rate} is {times} times the largest usual one (1e-5 to 1e-3)")
