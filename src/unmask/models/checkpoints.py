"""Weights in and out: safetensors in the family's own layout, sharded, streamed tensor by tensor.

A model is built on the meta device and filled from the files, so that nothing is initialised twice and no more than one
tensor is held beside the model. Nothing in a folder is executed, and nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from unmask.errors import ConfigError, ModelError, ResourceError, did_you_mean
from unmask.models.facts import read_facts
from unmask.models.families import ModelFamily
from unmask.models.folders import resolve_folder
from unmask.models.names import in_official_parts, split_place, to_official_name, to_our_name
from unmask.models.quantized import Quantization, checked, is_quantized, packed, quantization_of, quantize_layers
from unmask.models.shards import INDEX, WEIGHTS, shard_files, stored_tensors
from unmask.models.shell import DiffusionModel
from unmask.models.streamed import forget
from unmask.models.tensor_file import write_tensors

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
GENERATION = "generation_config.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
# types of weights that mean what they say; what has 8 bits means nothing without its scales
_PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# what older versions of transformers stored although it follows from config.json
_DERIVED = ".rotary_emb.inv_freq"


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: Dtype = "auto",
    device: str | torch.device = "cpu",
    from_scratch: bool = False,
    seed: int = 0,
    quantization: Quantization | None = None,
) -> DiffusionModel:
    """Load a checkpoint, or build one from its configuration.

    Args:
        name_or_path: folder or Hub id.
        dtype: type of the weights; auto: as stored, float32 from scratch.
        device: where they go, each tensor by itself.
        from_scratch: ignore weights and fill the model by the family's rule, drawn from `seed`.
        quantization: hold the layers' matrices in 4 or 8 bits, each quantised as it is read.

    Raises:
        ModelError: the folder is no checkpoint of a known family, or its weights are missing, damaged or do not fit.
        ConfigError: `dtype` or `quantization` is none of those, or there are no weights to quantise.
        ResourceError: bitsandbytes, which quantises, is not installed.
    """
    wanted, kind = dtype_of(dtype), checked(quantization)
    if kind and from_scratch:
        raise ConfigError(f"quantization {kind} needs trained weights; from scratch there are none. Leave it out.")
    folder = resolve_folder(name_or_path, weights=not from_scratch)
    facts = read_facts(folder)
    with torch.device("meta"):
        model = DiffusionModel(facts)
        if kind:
            quantize_layers(model, kind, wanted)
    model.config._name_or_path = os.fspath(name_or_path)
    model.origin = folder  # type: ignore[reportArgumentType]
    if from_scratch:
        _fill_from_scratch(model, wanted, torch.device(device), seed)
    else:
        fill_from_files(model, folder, dtype=wanted, device=torch.device(device))
    return model.eval()


def dtype_of(name: str) -> torch.dtype | None:
    """The type that `dtype` names; None for auto.

    Raises:
        ConfigError: it names none of those known.
    """
    if name not in get_args(Dtype):
        raise ConfigError(
            f'dtype "{name}" is not one of {", ".join(get_args(Dtype))}.{did_you_mean(name, get_args(Dtype))}'
        )
    return None if name == "auto" else getattr(torch, name)


def _fill_from_scratch(model: DiffusionModel, dtype: torch.dtype | None, device: torch.device, seed: int) -> None:
    model.to_empty(device=device)
    model.tie()
    generator = torch.Generator(device=device).manual_seed(seed)
    model.trunk.initialise(None if model.facts.shape.tied else model.head, generator)
    if dtype is not None:
        model.to(dtype=dtype)  # type: ignore[reportCallIssue]


def fill_from_files(
    model: DiffusionModel,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    layout: ModelFamily | None = None,
    change: Callable[[str, Tensor], Tensor] | None = None,
) -> None:
    """Put the weights of `folder` into `model`, all of them and nothing else.

    Weights that exist already are overwritten in place, in their type and on their device, so that an optimizer keeps
    hold of them; those on the meta device are created.

    Args:
        model: what to fill.
        folder: where the files are.
        dtype, device: of weights that are created; None: as stored, on the CPU.
        layout: the family whose names the files have; None: the model's own.
        change: what becomes of a tensor, given our name for it.

    Raises:
        ModelError: the files are missing or damaged, or do not fit the model.
    """
    family, expected = layout or model.family, _expected_shapes(model)
    missing, surplus = set(expected), []
    for file, names in shard_files(folder).items():
        for name, stored in stored_tensors(folder / file, names):
            ours = to_our_name(family, name)
            if ours is not None and change is not None:
                stored = change(ours, stored)
            if ours is None or ours not in expected:
                implied = (model.facts.shape.tied and ours == "head.weight") or name.endswith(_DERIVED)
                surplus += [] if implied else [name]
                continue
            if tuple(stored.shape) != expected[ours]:
                raise ModelError(
                    f"{folder / file}: {name} has shape {list(stored.shape)}, config.json asks for "
                    f"{list(expected[ours])}. The two do not belong together."
                )
            if stored.dtype not in _PLAIN:
                raise ModelError(
                    f"{folder / file}: {name} is of type {stored.dtype}. Give weights that are not quantized."
                )
            _place(model, ours, stored, device, dtype)
            missing.discard(ours)
    if missing or surplus:
        raise ModelError(_misfit(folder, family, missing, surplus))
    model.tie()


def _expected_shapes(model: DiffusionModel) -> dict[str, tuple[int, ...]]:
    parts = (in_official_parts(model.family.keys, *entry) for entry in model.state_dict().items())
    shapes = {name: tuple(tensor.shape) for tensors in parts for name, tensor in tensors}
    if model.facts.shape.tied:
        del shapes["head.weight"]
    return shapes


def _misfit(folder: Path, family: ModelFamily, missing: set[str], surplus: list[str]) -> str:
    parts = []
    if missing:
        first = to_official_name(family, min(missing))
        parts.append(f"{len(missing)} tensors are missing (first: {first})")
    if surplus:
        parts.append(f"{len(surplus)} are not part of a {family.name} model (first: {min(surplus)})")
    return f"{folder}: {' and '.join(parts)}. {_advice(family, missing, surplus)}"


def _advice(family: ModelFamily, missing: set[str], surplus: list[str]) -> str:
    """What to do about weights that do not fit, by what real files were seen to lack or to have."""
    if missing == {"head.weight"} and not surplus:
        tie = next(key for key in ("tie_word_embeddings", "weight_tying") if key in family.reader.defaults)
        return f"If its head is its embedding, set {tie} to true in config.json; otherwise download it again."
    if not missing and all(to_our_name(family, name) for name in surplus):
        return "config.json describes a network without them: take the one that belongs to these weights."
    return "If this is a LoRA adapter, give it as --adapter; otherwise download it again."


def _place(model: nn.Module, name: str, value: Tensor, device: torch.device | None, dtype: torch.dtype | None) -> None:
    name, place = split_place(name)
    held = _held(model, name)
    if place is not None:
        _place_in_stack(model, name, place, value, device, dtype)
        return
    if not held.is_meta:
        with torch.no_grad():
            held.copy_(value)
        return
    path, _, leaf = name.rpartition(".")
    if not isinstance(held, nn.Parameter):
        # a correction to what a router computes in float32, no weight: as it is stored
        setattr(model.get_submodule(path), leaf, value.to(device=device))
        return
    owner, value = model.get_submodule(path), value.to(dtype=dtype or value.dtype)
    made = packed(owner, value, device) if leaf == "weight" and is_quantized(owner) else None
    setattr(owner, leaf, made if made is not None else nn.Parameter(value.to(device=device)))


def _held(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer."""
    path, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(path), leaf)


def _place_in_stack(
    model: nn.Module, name: str, place: int, value: Tensor, device: torch.device | None, dtype: torch.dtype | None
) -> None:
    """Put one part of a stack into it; the first part makes the stack."""
    stack = _held(model, name)
    if stack.is_meta:
        path, _, leaf = name.rpartition(".")
        stack = nn.Parameter(torch.empty(stack.shape, dtype=dtype or value.dtype, device=device))
        setattr(model.get_submodule(path), leaf, stack)
    with torch.no_grad():
        stack[place].copy_(value)
    forget(value)


def tensor_reader(folder: Path, layout: ModelFamily) -> Callable[[str], Tensor]:
    """Reads one stored tensor by our name for it; `layout` is the family whose names the files have."""
    places = {
        to_our_name(layout, name): (folder / file, name)
        for file, names in shard_files(folder).items()
        for name, _ in stored_tensors(folder / file, names)
    }

    def read(ours: str) -> Tensor:
        file, name = places[ours]
        ((_, stored),) = stored_tensors(file, [name])
        return stored

    return read


def official_tensors(model: DiffusionModel, tensors: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """All weights under their official names; a tied head is left out, as the official code does.

    Args:
        model: what they are the weights of.
        tensors: our name -> tensor, where the weights live elsewhere (sharded training); None: the model's own.

    Raises:
        ModelError: the model holds an adapter, which has a file format of its own, or quantised weights.
    """
    if getattr(model, "peft_config", None):
        raise ModelError("the model holds an adapter. Save that with save_adapter, or merge it into the model first.")
    if kind := quantization_of(model):
        raise ModelError(
            f"the model's weights are held in {kind.removesuffix('bit')} bits, which no official code reads from such "
            "a file. Save the model that it was loaded from, or an adapter trained on it."
        )
    tensors = dict(model.state_dict() if tensors is None else tensors)
    if model.facts.shape.tied:
        tensors.pop("head.weight", None)
    parts = (in_official_parts(model.family.keys, *entry) for entry in tensors.items())
    return {to_official_name(model.family, name): tensor for entries in parts for name, tensor in entries}


def save_model(
    model: DiffusionModel, folder: str | os.PathLike[str], *, max_shard_size: str = "5GB", tensors: Any = None
) -> None:
    """Write a checkpoint in the family's own layout: the official code opens it, and so do we.

    Args:
        model: what to save.
        folder: created if need be; files of the same names are replaced.
        max_shard_size: such as 5GB; larger models are split.
        tensors: official name -> tensor, where the weights live elsewhere (sharded training); None: the model's own.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    tensors = official_tensors(model) if tensors is None else tensors
    target = Path(folder)
    # by size alone: parts of a stack share their memory, which would keep them in one file
    sizes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    split = split_torch_state_dict_into_shards(sizes, max_shard_size=max_shard_size)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file, names in split.filename_to_tensors.items():
            chunk = {name: tensors[name].detach().to("cpu").contiguous() for name in names}
            write_tensors(chunk, target / file, {"format": "pt"})
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            (target / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        _remove_stale(target, {*split.filename_to_tensors, *([INDEX] if split.is_sharded else [])})
        write_config(model, target, dtype=next(iter(tensors.values())).dtype)
        _copy_official_code(model, target)
        _copy_generation_config(model, target)
    except (OSError, SafetensorError) as error:
        raise ResourceError(f"cannot save to {target}: {error}. Free space or choose another folder.") from None


def _remove_stale(folder: Path, written: set[str]) -> None:
    """Weights of an earlier save in other shards: whoever opens the folder would take them for these."""
    for path in folder.iterdir():
        if path.name not in written and (path.name in (WEIGHTS, INDEX) or _SHARD.fullmatch(path.name)):
            path.unlink()


def write_config(model: DiffusionModel, folder: Path, *, dtype: torch.dtype) -> None:
    """Write `config.json`: the official one, with the type of the weights and the mask token."""
    config = model.facts.config_with(dtype=str(dtype).removeprefix("torch."))
    if model.mask_token_id != model.family.mask_token_id:  # the family's default is no fact of this checkpoint
        config["mask_token_id"] = model.mask_token_id
    config.pop("torch_dtype", None)
    source, references = model.config._name_or_path, config.get("auto_map")
    if source and not os.path.isdir(source) and isinstance(references, dict):
        # the way of transformers to say that the code stays in its repository on the Hub
        config["auto_map"] = {
            key: value if "--" in str(value) else f"{source}--{value}" for key, value in references.items()
        }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _copy_official_code(model: DiffusionModel, target: Path) -> None:
    """Keep the Python files that `auto_map` names beside the weights: others open the folder with them, we never do."""
    name = model.config._name_or_path
    if not name or not os.path.isdir(name) or not model.facts.config.get("auto_map"):
        return
    source = resolve_folder(name)
    if source.resolve() != target.resolve():
        for path in source.glob("*.py"):
            shutil.copyfile(path, target / path.name)


def _copy_generation_config(model: DiffusionModel, target: Path) -> None:
    """How the official code generates with a model is no part of it, and travels with it."""
    origin = getattr(model, "origin", None)
    if origin is not None and (origin / GENERATION).is_file() and origin.resolve() != target.resolve():
        shutil.copyfile(origin / GENERATION, target / GENERATION)
