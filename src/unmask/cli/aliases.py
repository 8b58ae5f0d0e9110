"""The one table of other spellings: names of the field, and names that transformers has dropped.

A name in this table is accepted on the command line and in YAML files wherever the name it means is an option, with
one note. Everything else that is not an option is an error. This file knows no types and no files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from unmask.errors import nearest


@dataclass(frozen=True)
class Alias:
    """What a name means.

    Attributes:
        target: the option's own name; empty: accepted, without effect.
        value: turns the given text into the option's; None: as it is.
        why: what the note adds.
        training_only: means this in `pretrain` and `sft` alone.
    """

    target: str = ""
    value: Callable[[Any], Any] | None = None
    why: str = ""
    training_only: bool = False


def _sampling(text: Any) -> Any:
    """`group_by_length: true`; what is no truth stays, to be refused with the option's values."""
    truths = {"true": "group_by_length", "yes": "group_by_length", "false": "random", "no": "random"}
    return truths.get(str(text).strip().lower(), text)


ALIASES: dict[str, Alias] = {
    "model": Alias("model_name_or_path"),
    "model_name": Alias("model_name_or_path"),
    "model_path": Alias("model_name_or_path"),
    "pretrained": Alias("model_name_or_path"),
    "train_data": Alias("dataset_args"),
    "txt_files": Alias("dataset_args"),
    "sft_json": Alias("dataset_args"),
    "hf_dataset": Alias("dataset_args"),
    "hf_text_column": Alias("text_field"),
    "process_data": Alias("overwrite_cache"),
    "max_seq_length": Alias("max_length"),
    "num_epochs": Alias("num_train_epochs"),
    "epochs": Alias("num_train_epochs"),
    "lr": Alias("learning_rate"),
    "local_batch_size": Alias("per_device_train_batch_size"),
    "batch_size": Alias("per_device_train_batch_size", training_only=True),
    "grad_accum_steps": Alias("gradient_accumulation_steps"),
    "activation_checkpointing": Alias("gradient_checkpointing"),
    "activation_checkpointing_kwargs": Alias("gradient_checkpointing_kwargs"),
    "evaluation_strategy": Alias("eval_strategy"),
    "warmup_ratio": Alias("warmup_steps", why="below 1 it is a fraction of the run"),
    "group_by_length": Alias("train_sampling_strategy", _sampling),
    "overwrite_output_dir": Alias("fresh", why="an earlier run is moved aside, not overwritten"),
    "rank": Alias("r"),
    "lora_r": Alias("r"),
    "enable_lora": Alias("lora"),
    "adapter_path": Alias("adapter"),
    "adapter_name_or_path": Alias("adapter"),
    "cfg": Alias("guidance_scale"),
    "cfg_scale": Alias("guidance_scale"),
    "peft": Alias("adapter"),
    "gen_length": Alias("max_new_tokens"),
    "max_gen_toks": Alias("max_new_tokens"),
    "block_length": Alias("block_size"),
    "remasking": Alias("strategy"),
    "remasking_strategy": Alias("strategy"),
    "alg": Alias("strategy"),
    "alg_temp": Alias("score_temperature"),
    "confidence_threshold": Alias("threshold"),
    "conf_threshold": Alias("threshold"),
    "kl_history_length": Alias("kl_history"),
    "relaxed_threshold": Alias("leap_threshold"),
    "threshold_back": Alias("verify_threshold"),
    "editing_threshold": Alias("edit_threshold"),
    "max_post_edit_steps": Alias("max_post_steps"),
    "visualize": Alias("show"),
    "mc_num": Alias("samples"),
    "task_type": Alias(why="the objective says what is trained"),
    "remove_unused_columns": Alias(why="a tokenised dataset holds only the columns that are used"),
    "is_check_greedy": Alias(why="a diffusion model has no greedy continuation to check"),
    "disable_caching": Alias(why="overwrite_cache: true tokenises again"),
}

# Spellings of `--config`, which is read before anything else.
CONFIG_NAMES = ("config", "configs", "train_config_path", "lora_config_path")

# option -> other spelling of a value -> our value.
VALUES: dict[str, dict[str, str]] = {
    "strategy": {
        "low_confidence": "confidence",
        "low_confidence_static": "confidence",
        "low_confidence_dynamic": "llada2",
        "maskgit_plus": "confidence",
        "topk_margin": "margin",
        "origin": "random",
        "confidence_threshold": "threshold",
        "joint_threshold": "edit",
        "wino": "revoke",
    },
    "score": {
        "low_confidence": "confidence",
        "maskgit_plus": "confidence",
        "topk_margin": "margin",
        "origin": "random",
    },
}


def meaning(typed: str, options: Collection[str]) -> Alias | None:
    """What `typed` stands for in a verb with these `options`; None where it is an option, or unknown.

    `gradient_checkpointing` and its like keep our name although the installed transformers may know both.
    """
    alias = ALIASES.get(typed)
    if alias is None or typed in options:
        return None
    training = "per_device_train_batch_size" in options
    if alias.training_only and not training:
        return None
    return alias if alias.target in options or (not alias.target and training) else None


def suggestion(typed: str, options: Collection[str]) -> str:
    """The option whose name, or other spelling, `typed` most resembles; empty where none is near."""
    others = {name: alias.target or name for name in ALIASES if (alias := meaning(name, options))}
    targets = {**others, **{name: name for name in options}}
    guess = nearest(typed.replace("-", "_"), targets)
    return targets[guess] if guess else ""


def value_meaning(option: str, value: Any) -> Any:
    """The value in our own spelling."""
    return VALUES.get(option, {}).get(value, value) if isinstance(value, str) else value


def note(typed: str, alias: Alias) -> str:
    """The one line that says how `typed` was read."""
    why = f" ({alias.why})" if alias.why else ""
    return f"note: {typed} is read as {alias.target}{why}" if alias.target else f"note: {typed} has no effect{why}"
