"""LoRA through PEFT, injected in place, read and written under the official names of the base's layers.

How layers are named is `adapter_names.py`'s; what PEFT has no layer for, `expert_lora.py`'s.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from unmask.errors import ConfigError, ModelError, ResourceError, did_you_mean
from unmask.models.adapter_names import (
    PREFIX,
    names_in,
    official_config,
    saved_paths,
    target_paths,
    to_official,
    to_ours,
)
from unmask.models.checkpoints import Dtype
from unmask.models.facts import Facts
from unmask.models.folders import resolve_folder
from unmask.models.json_file import read_json
from unmask.models.quantized import Quantization, import_bitsandbytes, quantization_of
from unmask.models.shell import DiffusionModel
from unmask.models.tensor_file import write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# our keys in the metadata of an adapter's weights
_HELD, _MADE_FOR = "unmask_base_held_in", "unmask_made_for"
BIASES = ("none", "all", "lora_only")
# settings that are read, with their types
_READ: dict[str, type | tuple[type, ...]] = {
    "r": int,
    "lora_alpha": (int, float),
    "lora_dropout": (int, float),
    "bias": str,
    "use_dora": bool,
    "use_rslora": bool,
}
# settings that say where an adapter came from, or what its file says better; all others have to be off
_WITHOUT_EFFECT = """
    auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config exclude_modules inference_mode
    layers_pattern layers_to_transform loftq_config lora_ga_config megatron_core modules_to_save peft_type
    peft_version qalora_group_size revision runtime_config target_modules task_type
"""
# first values that leave the base as it is; PiSSA and its like take a part out of it
_INITIAL = (True, False, "gaussian", "orthogonal", "eva", "mica")


@dataclass(frozen=True)
class LoraSettings:
    """Shape of an adapter, in PEFT's words.

    Attributes:
        use_dora: learn the size of each output's weights apart from their direction (Liu et al. 2024, DoRA).
        use_rslora: scale by lora_alpha / sqrt(r) instead of lora_alpha / r (Kalajdzievski 2023, rsLoRA).
    """

    r: int = 32
    lora_alpha: int = 64
    lora_dropout: float = 0.05
    target_modules: str | Sequence[str] = "all-linear"
    bias: str = "none"
    modules_to_save: str | Sequence[str] | None = None
    use_dora: bool = False
    use_rslora: bool = False


def attach_lora(model: DiffusionModel, settings: LoraSettings) -> None:
    """Put a new adapter into `model` in place and freeze everything else.

    Raises:
        ConfigError: a target names no layer of the model, or a number is out of its range.
    """
    _check(settings)
    targets = target_paths(model, settings.target_modules)
    saved = saved_paths(model, settings.modules_to_save or ())
    _inject(model, targets, settings, saved or None)


def _check(settings: LoraSettings) -> None:
    if settings.r < 1:
        raise ConfigError(f"r must be at least 1; got {settings.r}. Usual: 8 to 64.")
    if not settings.lora_alpha > 0:
        raise ConfigError(f"lora_alpha must be above 0; got {settings.lora_alpha}. Usual: r, or twice that.")
    if not 0 <= settings.lora_dropout < 1:
        raise ConfigError(f"lora_dropout must lie in 0..1, 1 excluded; got {settings.lora_dropout}. Usual: 0 to 0.1.")
    if settings.bias not in BIASES:
        raise ConfigError(
            f'bias "{settings.bias}" is not one of {", ".join(BIASES)}.{did_you_mean(settings.bias, BIASES)}'
        )
    if not names_in(settings.target_modules):
        raise ConfigError("target_modules is empty. Name layers, or all-linear.")


def load_adapter(model: DiffusionModel, folder: str | os.PathLike[str], *, trainable: bool = False) -> None:
    """Put a saved adapter into `model` in place.

    Args:
        model: its base; on the meta device only the adapter's own weights get values.
        folder: holds `adapter_config.json` and `adapter_model.safetensors`, ours or PEFT's over the official code; or
            a finished run's, or a Hub id.
        trainable: go on training it.

    The model's facts become those of `facts_under`.

    Raises:
        ModelError: the folder is no adapter, or belongs to another base.
    """
    source = resolve_folder(folder, holds=f"an {CONFIG}")
    config, ours = _named_as_ours(model, source)
    targets = sorted({name.split(".lora_")[0] for name in ours if ".lora_" in name})
    unknown = [path for path in targets if path not in dict(model.named_modules())]
    if unknown:
        raise ModelError(f"{source} adapts {unknown[0]}, which this {model.family.name} model lacks: another base.")
    # whole modules trained beside the adapter; PEFT's list of them may name none, or name them in another way
    saved = sorted({name.removesuffix(".weight") for name in ours if ".lora_" not in name and name.endswith(".weight")})
    settings = _settings_of(config, source)
    _refuse_another_rank(ours, settings.r, source)
    _inject(model, targets, settings, saved or None)
    _fill(model, ours, source)
    model.facts = facts_under(model.facts, source)
    if not trainable:
        model.requires_grad_(False)


def _settings_of(config: dict[str, Any], source: Path) -> LoraSettings:
    where = source / CONFIG
    for key, value in config.items():
        if key not in _READ and key not in _WITHOUT_EFFECT.split() and key != "init_lora_weights" and value:
            raise ModelError(f"{where}: {key}={value!r} is not supported, and might change what the adapter does.")
        if key in _READ and value is not None and not _is_a(value, _READ[key]):
            raise ModelError(f"{where}: {key} is {value!r}, which is no such setting. Save the adapter again.")
    initial = config.get("init_lora_weights")
    if initial is not None and initial not in _INITIAL:
        raise ModelError(
            f"{where}: init_lora_weights={initial!r} takes a part out of the base, which is not supported."
        )
    try:
        settings = LoraSettings(**{key: config[key] for key in _READ if config.get(key) is not None})
        _check(settings)
    except ConfigError as error:
        raise ModelError(f"{where}: {error}") from None
    return settings


def _is_a(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _refuse_another_rank(tensors: dict[str, Tensor], r: int, source: Path) -> None:
    """Before an adapter of that rank is made, which might not fit into any memory."""
    for name, value in tensors.items():
        if (".lora_A" in name or ".lora_embedding_A" in name) and value.shape[-2] != r:
            raise ModelError(f"{source} does not fit this model: {CONFIG} says r is {r}, {name} has {value.shape[-2]}.")


def read_adapter(model: DiffusionModel, folder: str | os.PathLike[str]) -> None:
    """Put the weights of a saved adapter into the one that `model` holds.

    Raises:
        ModelError: the folder holds no adapter of that shape.
    """
    source = Path(folder)
    _fill(model, _named_as_ours(model, source)[1], source)


def stored_adapter(model: DiffusionModel, folder: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The weights of a saved adapter by the names of the parameters of `model`, which holds one of that shape."""
    stored = _named_as_ours(model, Path(folder))[1]
    short = {name: _stored_name(name) for name, _ in model.named_parameters()}
    return {name: stored[found] for name, found in short.items() if found in stored}


def _named_as_ours(model: DiffusionModel, source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config, tensors = _read(source)
    return config, to_ours(model, tensors, source)


def _fill(model: DiffusionModel, tensors: dict[str, Tensor], source: Path) -> None:
    from peft import set_peft_model_state_dict

    wanted = {name.removeprefix(PREFIX) for name in _state(model)}
    if missing := sorted(wanted - set(tensors)):
        raise ModelError(f"{source} lacks {len(missing)} tensors (first: {missing[0]}). Save the adapter again.")
    if surplus := sorted(set(tensors) - wanted):
        raise ModelError(f"{source} has {len(surplus)} tensors too many (first: {surplus[0]}): another adapter.")
    try:
        if _is_meta(model):
            # PEFT would move the weights to where the base is
            placed = {name: tensors.get(_stored_name(name)) for name, _ in model.named_parameters()}
            given = {name: value for name, value in placed.items() if value is not None}
            model.load_state_dict(given, strict=False, assign=True)
        else:
            set_peft_model_state_dict(model, tensors)
    except RuntimeError as error:
        raise ModelError(f"{source} does not fit this model: {str(error).splitlines()[-1].strip()}") from None


def _stored_name(name: str) -> str:
    """The name in a file of a parameter of an adapted model: without PEFT's name of the adapter."""
    bare = name.replace(".modules_to_save.default", "").replace(".default", "")
    return bare.removesuffix(".weight") if "lora_magnitude_vector" in bare else bare


def save_adapter(
    model: DiffusionModel, folder: str | os.PathLike[str], tensors: dict[str, Tensor] | None = None
) -> None:
    """Write the adapter in PEFT's layout, under the official names, so that it opens over the official code too.

    Args:
        model: holds the adapter.
        folder: created if need be.
        tensors: our name -> tensor, where the weights live elsewhere; None: the model's own.
    """
    target, state = Path(folder), _state(model, tensors)
    official = to_official(model.family, state, target)
    chunk = {name: value.detach().to("cpu").contiguous() for name, value in official.items()}
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_tensors(chunk, target / WEIGHTS, {"format": "pt", **_how_held(model), **_made_for(model.facts)})
        text = json.dumps(official_config(model, official), indent=2, sort_keys=True)
        (target / CONFIG).write_text(text + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise ResourceError(f"cannot save to {target}: {error}. Free space or choose another folder.") from None


def _state(model: DiffusionModel, tensors: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    # PEFT would otherwise look up the base's configuration, on the Hub if need be, to see whether its vocabulary grew
    return get_peft_model_state_dict(model, state_dict=tensors, save_embedding_layers=False)


def _how_held(model: DiffusionModel) -> dict[str, str]:
    """What the base was quantised to and from, in the one place of an adapter's files that others do not interpret."""
    kind = quantization_of(model)
    dtype = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return {_HELD: f"{kind} {dtype}"} if kind else {}


def base_held_in(folder: Path) -> tuple[Quantization, torch.dtype] | None:
    """How the base was held while this adapter of ours was trained, and from which type; None: in full, or unknown.

    Raises:
        ModelError: the weights cannot be read.
    """
    said = _said(folder, _HELD)
    if len(said) != 2 or said[0] not in get_args(Quantization) or said[1] not in get_args(Dtype):
        return None
    return said[0], getattr(torch, said[1])  # type: ignore[return-value]


def _made_for(facts: Facts) -> dict[str, str]:
    return {} if facts.attention == "causal" else {_MADE_FOR: f"{facts.attention} {facts.block_size or ''}".strip()}


def facts_under(facts: Facts, adapter: str | os.PathLike[str]) -> Facts:
    """The facts of a base with an adapter on top: made for what the adapter was trained for, where its file says so.

    Raises:
        ModelError: the adapter's weights cannot be read, or its blocks do not fit the base.
    """
    said = _said(resolve_folder(adapter, holds=f"an {CONFIG}"), _MADE_FOR)
    if facts.attention == "causal" or not said or said[0] not in ("bidirectional", "block_causal"):
        return facts
    size = int(said[1]) if said[1:] and said[1].isdecimal() else None
    # a configuration that says it already, or need not, stays as it is
    return facts if (said[0], size) == (facts.attention, facts.block_size) else facts.made_for(said[0], size)


def _said(folder: Path, key: str) -> list[str]:
    """The words under a key of ours in the metadata of an adapter's weights."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return (file.metadata() or {}).get(key, "").split()
    except (FileNotFoundError, SafetensorError) as error:
        raise _unreadable(folder, error) from None


def has_adapter(model: nn.Module) -> bool:
    """Whether an adapter was put into `model`."""
    return bool(getattr(model, "peft_config", None))


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter rather than a model."""
    return (folder / CONFIG).is_file()


def base_of(folder: Path) -> str | None:
    """The base that an adapter was trained on, as its configuration names it.

    Raises:
        ModelError: that file cannot be read, or names no base by a text.
    """
    base = _read_config(folder).get("base_model_name_or_path")
    if base is not None and not isinstance(base, str):
        raise ModelError(f"{folder / CONFIG}: base_model_name_or_path is {base!r}; it must be a folder or a Hub id.")
    return base


def tokenizer_folder(base: Path, adapter: str | os.PathLike[str] | None) -> Path:
    """Where the tokenizer of a base under an adapter is: the adapter's own, which may know more tokens, comes first."""
    folder = None if adapter is None else resolve_folder(adapter, weights=False, holds=f"an {CONFIG}")
    return folder if folder is not None and (folder / "tokenizer.json").is_file() else base


def _inject(model: DiffusionModel, targets: list[str], settings: LoraSettings, saved: list[str] | None) -> None:
    if find_spec("bitsandbytes"):
        import_bitsandbytes()  # PEFT would import it less carefully
    from peft import LoraConfig, inject_adapter_in_model

    from unmask.models.expert_lora import LAYERS

    if settings.use_dora and quantization_of(model) == "8bit":
        raise ConfigError("use_dora does not work on 8-bit weights. Hold the base in 4 bits, or leave use_dora out.")
    if settings.use_dora and any(isinstance(model.get_submodule(path), tuple(LAYERS)) for path in targets):
        raise ConfigError("use_dora does not work on experts and routers. Leave use_dora out, or adapt all-linear.")

    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        bias=settings.bias,  # type: ignore[arg-type]
        target_modules=targets,
        modules_to_save=saved,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        base_model_name_or_path=model.config._name_or_path or None,
    )
    config._register_custom_module(LAYERS)
    inject_adapter_in_model(config, model, low_cpu_mem_usage=_is_meta(model))
    _hold_in_float32(model)
    model.train(model.training)  # PEFT's new dropout layers start in training mode


def _hold_in_float32(model: DiffusionModel) -> None:
    """What is learned, whatever the base is held in: small updates of a bfloat16 weight are lost to rounding."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    narrow = model.get_input_embeddings().weight.dtype
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            for name in (*module.adapter_layer_names, "lora_magnitude_vector"):
                getattr(module, name, nn.Module()).float()
        elif isinstance(module, ModulesToSaveWrapper) and narrow != torch.float32:
            for copy in module.modules_to_save.values():
                copy.float()
                copy.register_forward_pre_hook(lambda _, given: tuple(_cast(value, torch.float32) for value in given))
                copy.register_forward_hook(lambda _, given, result: _cast(result, narrow))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if value.is_floating_point() else value


def _is_meta(model: DiffusionModel) -> bool:
    return model.get_input_embeddings().weight.is_meta


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(folder / CONFIG)
    except FileNotFoundError:
        raise ModelError(f"{folder} is no adapter: it holds no {CONFIG}.") from None
    except ValueError as error:
        raise ModelError(f"{folder / CONFIG} is not valid JSON: {error}. Save the adapter again.") from None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / CONFIG} holds a {type(config).__name__}, no settings. Save the adapter again.")
    return config


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = _read_config(folder)
    if config.get("peft_type", "LORA") != "LORA":
        raise ModelError(f"{folder} is a {config['peft_type']} adapter; only LoRA is supported.")
    try:
        return config, load_file(folder / WEIGHTS)
    except (FileNotFoundError, SafetensorError) as error:
        raise _unreadable(folder, error) from None


def _unreadable(folder: Path, error: Exception) -> ModelError:
    return ModelError(f"{folder / WEIGHTS} is missing or damaged: {error}. Save the adapter again.")
