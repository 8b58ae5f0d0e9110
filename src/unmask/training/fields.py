"""What becomes of each field of transformers' `TrainingArguments`: honoured, translated, without effect, or refused.

The fields are read from the source text of the installed version, because importing it costs seconds that
`unmask sft --help` and a mistyped option should not cost. Nothing here imports torch or transformers.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Union

_HONOURED = """
    output_dir per_device_train_batch_size num_train_epochs max_steps gradient_accumulation_steps max_grad_norm
    learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps
    optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2 adam_epsilon
    bf16 fp16 tf32 gradient_checkpointing
    torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
    logging_strategy logging_steps logging_first_step log_on_each_node log_level log_level_replica
    report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
    eval_strategy eval_steps eval_delay eval_on_start per_device_eval_batch_size
    save_strategy save_steps save_total_limit save_only_model resume_from_checkpoint
    load_best_model_at_end metric_for_best_model greater_is_better
    seed full_determinism use_cpu train_sampling_strategy
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout
    fsdp fsdp_config deepspeed debug skip_memory_metrics
"""
HONOURED = frozenset(_HONOURED.split())

# Another name of ours says the same; `cli/aliases.py` rewrites them.
TRANSLATED = {
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
}

NO_EFFECT = {
    "gradient_checkpointing_kwargs": "the model recomputes its own activations",
    "disable_tqdm": "progress is one line, not a bar",
    "remove_unused_columns": "a tokenised dataset holds only the columns that are used",
    "label_names": "the objective knows what is learned",
    "length_column_name": "the length of every row is known",
    "logging_nan_inf_filter": "a loss that is not finite is always shown",
    "include_num_input_tokens_seen": "tokens are always counted",
    "prediction_loss_only": "evaluation computes the bound only",
    "eval_do_concat_batches": "evaluation keeps sums, no predictions",
    "eval_use_gather_object": "evaluation keeps sums, no predictions",
    "eval_accumulation_steps": "evaluation keeps sums, no predictions",
    "dataloader_drop_last": "an update takes the rows that are next in the run's order, so no batch is left over",
    "do_train": "the command says what is done",
    "do_eval": "eval_strategy says when to evaluate",
    "do_predict": "the command says what is done",
    "local_rank": "the launcher's environment says which process this is",
}

REFUSED = {
    "average_tokens_across_devices": "the loss is always divided by the tokens of all devices",
    "label_smoothing_factor": "a smoothed loss is no bound on the likelihood",
    "bf16_full_eval": "evaluation uses the precision of training, so that curves compare",
    "fp16_full_eval": "evaluation uses the precision of training, so that curves compare",
    "use_liger_kernel": "it patches transformers' own models; the head already runs only at noised positions",
    "liger_kernel_config": "it patches transformers' own models",
    "use_cache": "training keeps no keys and values",
    "neftune_noise_alpha": "noise on embeddings is not part of any objective here",
    "auto_find_batch_size": "it would change the batch unseen; lower per_device_train_batch_size and raise "
    "gradient_accumulation_steps by the same factor: the gradients stay identical",
    "include_for_metrics": "evaluation keeps sums, no predictions",
    "batch_eval_metrics": "evaluation keeps sums, no predictions",
    "save_on_each_node": "a checkpoint is written once, to a folder that all nodes see",
    "enable_jit_checkpoint": "it loses the checkpoint when the loader's workers get the signal; use save_steps",
    "push_to_hub": "nothing is uploaded by a training run; afterwards: hf upload NAME OUTPUT_DIR/checkpoint-final",
    "hub_token": "nothing is uploaded by a training run",
    "hub_private_repo": "nothing is uploaded by a training run",
    "hub_model_id": "nothing is uploaded by a training run",
    "hub_strategy": "nothing is uploaded by a training run",
    "hub_always_push": "nothing is uploaded by a training run",
    "hub_revision": "nothing is uploaded by a training run",
    "ignore_data_skip": "a resumed run always goes on with the row after the last one",
    "restore_callback_states_from_checkpoint": "everything needed to go on is restored anyway",
    "data_seed": "order, masks and times all follow seed",
    "accelerator_config": "batches are planned here, not by accelerate",
    "parallelism_config": "use an accelerate configuration: accelerate launch --config_file FILE -m unmask sft",
    "dataloader_multiprocessing_context": "workers start the platform's own way",
    "dataloader_in_order": "batches arrive in order, or a run could not be repeated",
}

# Allowed values of a field whose type does not list them.
VALUES = {"train_sampling_strategy": ("random", "sequential", "group_by_length")}

# These optimizers step inside the backward pass, before the gradients of an update are summed, checked and clipped.
REFUSED_OPTIMIZERS = frozenset({"lomo", "adalomo"})


@dataclass(frozen=True)
class TrainerField:
    """One field of `TrainingArguments`.

    Attributes:
        name: its name.
        type: a Python type or union; an enumeration of transformers appears as the Literal of its values.
        default: its default; None where it is decided when transformers is imported.
        help: transformers' own sentence.
    """

    name: str
    type: Any
    default: Any
    help: str


@cache
def trainer_fields(folder: str | None = None) -> tuple[TrainerField, ...]:
    """The fields of `TrainingArguments` in the transformers package at `folder` (default: the installed one)."""
    home = Path(folder) if folder else _installed()
    source = ast.parse((home / "training_args.py").read_text(encoding="utf-8"))
    enums = _enums(source) | _enums(ast.parse((home / "trainer_utils.py").read_text(encoding="utf-8")))
    classes = {node.name: node.body for node in source.body if isinstance(node, ast.ClassDef)}
    return tuple(
        _field(node, enums)
        for node in classes["TrainingArguments"]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    )


@cache
def trackers() -> tuple[str, ...]:
    """The names that `report_to` takes in the installed transformers."""
    source = ast.parse((_installed() / "integrations" / "integration_utils.py").read_text(encoding="utf-8"))
    tables = [
        node.value
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INTEGRATION_TO_CALLBACK"
    ]
    return tuple(ast.literal_eval(key) for table in tables if isinstance(table, ast.Dict) for key in table.keys if key)


def _installed() -> Path:
    spec = find_spec("transformers")
    assert spec is not None and spec.submodule_search_locations, "transformers is a dependency"
    return Path(spec.submodule_search_locations[0])


def _enums(source: ast.Module) -> dict[str, Any]:
    """name -> Literal of the values, for each enumeration of strings in a module."""
    found = {}
    for node in source.body:
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Enum") for base in node.bases):
            values = [item.value.value for item in node.body if _is_text(item)]  # type: ignore[attr-defined]
            found[node.name] = Literal[tuple(values)]  # type: ignore[valid-type]
    return found


def _is_text(item: ast.stmt) -> bool:
    return isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)


def _field(node: ast.AnnAssign, enums: dict[str, Any]) -> TrainerField:
    name = ast.unparse(node.target)
    words = {word.arg: word.value for word in node.value.keywords} if isinstance(node.value, ast.Call) else {}
    kind = Literal[VALUES[name]] if name in VALUES else _type(node.annotation, enums)  # type: ignore[valid-type]
    return TrainerField(name, kind, _default(words, node.value), _help(words.get("metadata")))


def _help(metadata: ast.expr | None) -> str:
    """The text under "help"; where it is put together by code, its pieces."""
    if not isinstance(metadata, ast.Dict):
        return ""
    entries = {ast.literal_eval(key): value for key, value in zip(metadata.keys, metadata.values, strict=True) if key}
    pieces = [part.value for part in ast.walk(entries["help"]) if isinstance(part, ast.Constant)]
    return " ".join(" ".join(str(piece) for piece in pieces).split())


def _default(words: dict[str | None, ast.expr], value: ast.expr | None) -> Any:
    if "default_factory" in words:
        return []
    try:
        return ast.literal_eval(words.get("default", value))  # type: ignore[arg-type]
    except ValueError:
        return None


_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "None": NoneType, "dict": dict, "list": list[str]}


def _type(node: ast.expr, enums: dict[str, Any]) -> Any:
    """The type that an annotation names, as far as a command line cares; what it cannot type is Any."""
    if isinstance(node, ast.BinOp):
        return _union([node.left, node.right], enums)
    if isinstance(node, ast.Constant):
        return NoneType if node.value is None else _type(ast.parse(str(node.value), mode="eval").body, enums)
    if isinstance(node, ast.Subscript):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        kind = ast.unparse(node.value).removeprefix("typing.")
        if kind in ("Optional", "Union"):
            return _union([*inner, ast.Constant(None)] if kind == "Optional" else inner, enums)
        if kind == "Literal":
            return Literal[tuple(ast.literal_eval(item) for item in inner)]  # type: ignore[valid-type]
        return _TYPES.get(kind, Any)
    name = ast.unparse(node)
    return enums.get(name, _TYPES.get(name, Any))


def _union(nodes: list[ast.expr], enums: dict[str, Any]) -> Any:
    kinds = [_type(node, enums) for node in nodes]
    listed = [kind for kind in kinds if kind in enums.values()]
    # `SchedulerType | str` means the names of the enumeration, typed as text.
    return Union[tuple(kind for kind in kinds if not (listed and kind is str))]  # noqa: UP007
