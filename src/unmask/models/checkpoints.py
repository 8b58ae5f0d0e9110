"""Weights in and out: safetensors in the family's own layout, sharded, streamed tensor by tensor.

A model is built on the meta device and filled from the files, so that nothing is initialised twice and no more than one
tensor is held beside the model. Nothing in a folder is executed, and nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unmask.errors import ModelError, ResourceError
from unmask.models.dense import initialise
from unmask.models.facts import read_facts
from unmask.models.families import ModelFamily
from unmask.models.shell import DiffusionModel

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# where a finished run leaves its model: the run's folder is a model too
FINISHED = "checkpoint-final"
_WANTED_FROM_HUB = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "tokenizer*"]


def resolve_folder(name_or_path: str | os.PathLike[str], *, weights: bool = True) -> Path:
    """The folder of a checkpoint: a local one, or a snapshot of a Hub id.

    Args:
        name_or_path: folder or `owner/name`.
        weights: fetch the weights too, not just configuration and tokenizer.

    Raises:
        ModelError: there is no such folder, and no such model can be had from the Hub.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        finished = folder / FINISHED
        return finished if finished.is_dir() and not (folder / "config.json").exists() else folder
    name = os.fspath(name_or_path)
    if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f'no folder "{name}". Give a folder with a config.json, or a Hub id such as owner/name.')
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = _WANTED_FROM_HUB if weights else [p for p in _WANTED_FROM_HUB if p != "*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except GatedRepoError:
        raise ModelError(f'model "{name}" is gated: accept its terms on the Hub, then run hf auth login.') from None
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f'no folder "{name}", and no such model on the Hub within reach ({first}). Check the name, or the network.'
        ) from None


def holds_weights(folder: Path) -> bool:
    """Whether `folder` has weights in a form that we read."""
    return (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: Dtype = "auto",
    device: str | torch.device = "cpu",
    from_scratch: bool = False,
    seed: int = 0,
) -> DiffusionModel:
    """Load a checkpoint, or build one from its configuration.

    Args:
        name_or_path: folder or Hub id.
        dtype: type of the weights; auto: as stored, float32 from scratch.
        device: where they go, each tensor by itself.
        from_scratch: ignore weights and fill the model by the family's rule, drawn from `seed`.

    Raises:
        ModelError: the folder is no checkpoint of a known family, or its weights are missing, damaged or do not fit.
    """
    folder = resolve_folder(name_or_path, weights=not from_scratch)
    facts = read_facts(folder)
    with torch.device("meta"):
        model = DiffusionModel(facts)
    model.config._name_or_path = os.fspath(name_or_path)
    if from_scratch:
        _fill_from_scratch(model, None if dtype == "auto" else getattr(torch, dtype), torch.device(device), seed)
    elif holds_weights(folder):
        fill_from_files(
            model, folder, dtype=None if dtype == "auto" else getattr(torch, dtype), device=torch.device(device)
        )
    else:
        raise ModelError(_no_weights(folder))
    return model.eval()


def _no_weights(folder: Path) -> str:
    unsafe = [path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    if (folder / "adapter_config.json").is_file():
        return f"{folder} is an adapter, not a model. Give its base as the model and this folder as --adapter."
    if unsafe:
        return (
            f"{folder} holds its weights as {unsafe[0]}, a pickle, which can run code when opened. "
            "Convert it to safetensors first."
        )
    return f"{folder} holds a configuration but no weights. Start from scratch: unmask pretrain, or --from_scratch true."


def _fill_from_scratch(model: DiffusionModel, dtype: torch.dtype | None, device: torch.device, seed: int) -> None:
    model.to_empty(device=device)
    model.tie()
    generator = torch.Generator(device=device).manual_seed(seed)
    initialise(model.trunk, None if model.facts.shape.tied else model.head, generator)
    if dtype is not None:
        model.to(dtype)


def fill_from_files(
    model: DiffusionModel, folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> None:
    """Put the weights of `folder` into `model`, all of them and nothing else.

    Weights that exist already are overwritten in place, in their type and on their device, so that an optimizer keeps
    hold of them; those on the meta device are created.

    Raises:
        ModelError: the files are missing or damaged, or do not fit the model.
    """
    family, expected = model.family, _expected_shapes(model)
    missing, surplus = set(expected), []
    for file, names in _files(folder).items():
        for name, stored in _tensors(folder / file, names):
            ours = to_our_name(family, name)
            if ours is None or ours not in expected:
                surplus += [] if model.facts.shape.tied and ours == "head.weight" else [name]
                continue
            if tuple(stored.shape) != expected[ours]:
                raise ModelError(
                    f"{folder / file}: {name} has shape {list(stored.shape)}, config.json asks for "
                    f"{list(expected[ours])}. The two do not belong together."
                )
            _place(model, ours, stored, device, dtype)
            missing.discard(ours)
    if missing or surplus:
        raise ModelError(_misfit(folder, family, missing, surplus))
    model.tie()


def _expected_shapes(model: DiffusionModel) -> dict[str, tuple[int, ...]]:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
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
    advice = "If this is a LoRA adapter, give it as --adapter; otherwise download it again."
    return f"{folder}: {' and '.join(parts)}. {advice}"


def _place(model: nn.Module, name: str, value: Tensor, device: torch.device | None, dtype: torch.dtype | None) -> None:
    held = model.get_parameter(name)
    if not held.is_meta:
        with torch.no_grad():
            held.copy_(value)
        return
    path, _, leaf = name.rpartition(".")
    made = nn.Parameter(value.to(device=device, dtype=dtype or value.dtype), requires_grad=value.is_floating_point())
    setattr(model.get_submodule(path), leaf, made)


def _files(folder: Path) -> dict[str, list[str] | None]:
    """Shard file -> the tensors to take from it (None: all)."""
    index = folder / INDEX
    if not index.is_file():
        return {WEIGHTS: None}
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards: dict[str, list[str] | None] = {}
        for name, file in sorted(weight_map.items()):
            shards.setdefault(file, []).append(name)  # type: ignore[union-attr]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is not an index of shards ({error}). Download it again.") from None
    for file in shards:
        if Path(file).name != file:
            raise ModelError(f'{index} points outside its folder ("{file}"). Do not use this checkpoint.')
        if not (folder / file).is_file():
            raise ModelError(f"{folder} lacks the shard {file} that its index names. Download it again.")
    return shards


def _tensors(path: Path, names: list[str] | None) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in names if names is not None else file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        size = path.stat().st_size
        raise ModelError(f"{path} ({size:,} bytes) is damaged or cut off: {error}. Download it again.") from None


def to_our_name(family: ModelFamily, official: str) -> str | None:
    """Our name of an official tensor, or None."""
    path, _, leaf = official.rpartition(".")
    ours = family.keys.to_ours(path)
    return f"{ours}.{leaf}" if ours else None


def to_official_name(family: ModelFamily, ours: str) -> str:
    """The official name of one of our tensors."""
    path, _, leaf = ours.rpartition(".")
    official = family.keys.to_official(path)
    assert official is not None, f"{family.name} maps no module {path}"
    return f"{official}.{leaf}"


def official_tensors(model: DiffusionModel) -> dict[str, Tensor]:
    """All weights under their official names; a tied head is left out, as the official code does."""
    tensors = model.state_dict()
    if model.facts.shape.tied:
        tensors.pop("head.weight")
    return {to_official_name(model.family, name): tensor for name, tensor in tensors.items()}


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
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file, names in split.filename_to_tensors.items():
            chunk = {name: tensors[name].detach().to("cpu").contiguous() for name in names}
            save_file(chunk, target / file, metadata={"format": "pt"})
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            (target / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_config(model, target, dtype=next(iter(tensors.values())).dtype)
        _copy_official_code(model, target)
    except (OSError, SafetensorError) as error:
        raise ResourceError(f"cannot save to {target}: {error}. Free space or choose another folder.") from None


def write_config(model: DiffusionModel, folder: Path, *, dtype: torch.dtype) -> None:
    """Write `config.json`: the official one, with the type of the weights and the mask token."""
    config = model.facts.config_with(dtype=str(dtype).removeprefix("torch."), mask_token_id=model.mask_token_id)
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _copy_official_code(model: DiffusionModel, target: Path) -> None:
    """Keep the Python files that `auto_map` names beside the weights: others open the folder with them, we never do."""
    source = Path(model.config._name_or_path)
    references = model.facts.config.get("auto_map") or {}
    if not source.is_dir() or source.resolve() == target.resolve():
        return
    if references:
        for path in source.glob("*.py"):
            shutil.copyfile(path, target / path.name)
