"""Defaults of `pretrain` and `sft` that differ from transformers' own, each with its reason: the one table.

Knows nothing of the command line.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Default(NamedTuple):
    """A value and why it is ours."""

    value: Any
    why: str


COMMON = {
    "lr_scheduler_type": Default("cosine", "what LLaDA's descendants train with"),
    "warmup_steps": Default(0.1, "a tenth of the run; the 1/t weight makes the first gradients large"),
    "logging_steps": Default(10, "the 1/t weight makes single losses noisy, so the curve needs points"),
    "save_total_limit": Default(2, "a checkpoint holds the optimizer, three times the weights; one is always complete"),
    "report_to": Default("none", "metrics go to a file; nothing is sent anywhere unasked"),
    "ddp_find_unused_parameters": Default(False, "every trained weight is used in every forward; looking costs a pass"),
    "seed": Default(42, "transformers' own, written down because masks and order follow it too"),
}

DEFAULTS: dict[str, dict[str, Default]] = {
    "sft": COMMON
    | {
        "learning_rate": Default(2e-5, "full fine-tuning of an 8B model; adapters take ten times as much"),
        "num_train_epochs": Default(3.0, "LLaDA's own fine-tuning"),
    },
    "pretrain": COMMON
    | {
        "learning_rate": Default(3e-4, "the 100M model of the tutorial; LLaDA 8B began at 4e-4"),
        "num_train_epochs": Default(1.0, "a corpus is read once"),
        "weight_decay": Default(0.1, "LLaDA's pretraining"),
    },
}

# Evaluation begins by itself where evaluation data is named: ten times a run.
EVALUATION = {
    "eval_strategy": Default("steps", "data named for evaluation is meant to be used"),
    "eval_steps": Default(0.1, "ten points make a curve"),
}

LONGEST_WARMUP = Default(2000, "LLaDA's pretraining; a tenth of a long run would be too much")


def verb_defaults(verb: str) -> dict[str, Any]:
    """name -> value for a verb."""
    return {name: default.value for name, default in DEFAULTS[verb].items()}
