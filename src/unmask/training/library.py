"""Our settings -> transformers' `TrainingArguments`."""

from __future__ import annotations

import os

import torch
from transformers import Trainer, TrainingArguments

from unmask.errors import ConfigError, ResourceError
from unmask.models.compiling import compile_layers
from unmask.models.shell import DiffusionModel
from unmask.training.arguments import Settings

# handled by us: the plan orders and repeats rows, the model recomputes its own activations, layers are compiled
_COMPILING = ("torch_compile", "torch_compile_backend", "torch_compile_mode")
_OURS = (
    *("gradient_checkpointing", "gradient_checkpointing_kwargs", "train_sampling_strategy", "num_train_epochs"),
    *_COMPILING,
)


def library_arguments(settings: Settings, *, updates: int, evaluate: bool) -> TrainingArguments:
    """Arguments under which the library's loop runs `updates` updates over one long loader.

    Raises:
        ConfigError: the library refuses a value or a combination.
    """
    asked = {name: value for name, value in settings.trainer.items() if name not in _OURS}
    asked["report_to"] = "none"  # `trackers.py` makes the trackers' callbacks
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        asked["use_cpu"] = True
    if "bf16" not in asked and not asked.get("fp16") and not asked.get("use_cpu"):
        asked["bf16"] = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if not evaluate:
        if asked.get("load_best_model_at_end"):
            raise ConfigError("load_best_model_at_end needs evaluation data. Give eval_dataset_args or [test:N].")
        asked["eval_strategy"] = "no"
        asked.pop("eval_steps", None)
    forced = {
        "max_steps": updates,
        "num_train_epochs": 1,
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
    }
    if asked.get("fsdp") and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise ConfigError("fsdp needs several processes. Start the command with accelerate launch, or leave fsdp out.")
    try:
        args = TrainingArguments(**{**asked, **forced})
    except (ValueError, TypeError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"transformers refuses these settings: {first}") from None
    if args.tf32 is not None:
        # the library says it in PyTorch's new words alone; the old ones, which inductor asks for, then raise
        torch.set_float32_matmul_precision("high" if args.tf32 else "highest")
    return args


def compile_for_training(settings: Settings, args: TrainingArguments, model: DiffusionModel) -> None:
    """Compile the model's layers, where that was asked for; the library's own way would compile the whole model, once
    for each form of its input.

    Raises:
        ConfigError, ResourceError: see `compile_layers`; or activations are computed again operation by operation.
    """
    asked = [settings.trainer.get(name) for name in _COMPILING]
    if not any(asked):
        return
    if settings.trainer.get("gradient_checkpointing") and settings.run.checkpointing_strategy == "selective":
        raise ConfigError(
            "checkpointing_strategy selective looks at single operations, which torch_compile puts together. Take "
            "whole_layer, one_in_two or fine_grained, or leave torch_compile out."
        )
    compile_layers(model, backend=asked[1], mode=asked[2], device=args.device.type)


def check_optimizer(args: TrainingArguments, model: DiffusionModel) -> None:
    """Refuse an optimizer that is not there, before anything is written.

    Raises:
        ResourceError: its package is missing, or it lacks settings.
    """
    try:
        Trainer.get_optimizer_cls_and_kwargs(args, model)
    except (ImportError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ResourceError(
            f"optim {getattr(args.optim, 'value', args.optim)} cannot be used: {first}. Or use adamw_torch."
        ) from None
