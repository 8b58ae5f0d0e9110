"""What an adapter's layers and tensors are called: by users, in our modules, and in PEFT's files over official code.

An expert's tensors are apart in the files and stacked here. Knows no file and no PEFT.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from unmask.errors import ConfigError, ModelError, did_you_mean
from unmask.models.families import ModelFamily
from unmask.models.moe import ExpertProjection, Router, SparseShape
from unmask.models.names import is_stack, official_path, split_place
from unmask.models.shell import DiffusionModel

PREFIX, WRAPPED = "base_model.model.", ".base_layer"
ALL_LINEAR, EXPERTS = "all-linear", "experts"
_LINEAR = (nn.Linear, nn.Embedding)
_ADAPTABLE = (*_LINEAR, ExpertProjection, Router)


def names_in(value: str | Sequence[str]) -> list[str]:
    """Names in a list, or between commas."""
    parts = value.split(",") if isinstance(value, str) else list(value)
    return [part.strip() for part in parts if part.strip()]


def target_paths(model: DiffusionModel, wanted: str | Sequence[str]) -> list[str]:
    """Layers that an adapter is put on: `all-linear`, `experts`, or last names, ours or the official ones.

    As over the official code, a last name means experts too where these have such a layer; `all-linear` leaves them
    out, since they would be nearly all of the adapter.

    Raises:
        ConfigError: a name is no layer's.
    """
    linear, paths = _by_leaf(model, _LINEAR), []
    for name in names_in(wanted):
        if name == ALL_LINEAR:
            # not every sparse model has dense layers or shared experts, where alone some of these are
            found = [path for target in model.family.lora_targets for path in linear.get(target, ())]
            paths += [path for path in found if path != "head"]
        else:
            paths += _named(model, name, _by_leaf(model, _ADAPTABLE), "target_modules")
    return list(dict.fromkeys(paths))


def saved_paths(model: DiffusionModel, wanted: str | Sequence[str]) -> list[str]:
    """Layers that are trained as a whole beside an adapter.

    Raises:
        ConfigError: a name is no layer's.
    """
    found = _by_leaf(model, _LINEAR)
    return [path for name in names_in(wanted) for path in _named(model, name, found, "modules_to_save")]


def _named(model: DiffusionModel, name: str, found: Mapping[str, list[str]], field: str) -> list[str]:
    if name not in found:
        experts = f", {EXPERTS}" if EXPERTS in found else ""
        raise ConfigError(
            f'{field}: "{name}" is no layer of a {model.family.name} model; its layers: '
            f"{', '.join(model.family.lora_targets)}{experts}, or {ALL_LINEAR}.{did_you_mean(name, found)}"
        )
    # LLaDA calls both a layer's projection and the head ff_out: the head is adapted only under its own name
    return [path for path in found[name] if path != "head" or name == "head"]


def _by_leaf(model: DiffusionModel, kinds: tuple[type[nn.Module], ...]) -> dict[str, list[str]]:
    """Last name, ours or the official one, of a layer or embedding -> their paths; `experts` -> all of theirs."""
    found: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        if isinstance(module, kinds):
            official = official_path(model.family.keys, path) or path
            leaves = {path.rpartition(".")[2], official.rpartition(".")[2]}
            for leaf in leaves | ({EXPERTS} if isinstance(module, ExpertProjection) else set()):
                found.setdefault(leaf, []).append(path)
    return found


def to_ours(model: DiffusionModel, tensors: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The tensors of a file under our names, those of experts stacked; zeros for experts that the file leaves alone.

    Raises:
        ModelError: a name is no layer's of such a model, or experts do not fit each other.
    """
    whole: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, Tensor]] = {}
    for official, value in tensors.items():
        name, place = split_place(_renamed(official, model.family, to_ours=True, where=where))
        if place is None:
            whole[name] = value
        else:
            stacks.setdefault(name, {})[place] = value
    for name, parts in stacks.items():
        whole[name] = _stacked(name, parts, model, where)
        mate = name.replace(".lora_A.", ".lora_B.") if ".lora_A." in name else name.replace(".lora_B.", ".lora_A.")
        if stacks.get(mate, {}).keys() != parts.keys():
            raise ModelError(f"{where}: {name} and {mate} are not of the same experts. Save the adapter again.")
    return whole


def _stacked(name: str, parts: Mapping[int, Tensor], model: DiffusionModel, where: Path) -> Tensor:
    shape, some = model.facts.shape, next(iter(parts.values()))
    experts = shape.experts if isinstance(shape, SparseShape) else 0
    if max(parts) >= experts:
        raise ModelError(f"{where}: {name} is of expert {max(parts)}, and this model has {experts}: another base.")
    # an adapter of zeros adds nothing, and learns nothing
    stack = some.new_zeros(experts, *some.shape)
    for place, part in parts.items():
        if part.shape != some.shape:
            raise ModelError(f"{where}: {name} has shapes {list(some.shape)} and {list(part.shape)} for two experts.")
        stack[place] = part
    return stack


def to_official(family: ModelFamily, tensors: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Our tensors under the names of the file, those of experts apart."""
    parts = (part for entry in tensors.items() for part in _parts(family, *entry))
    return {_renamed(name, family, to_ours=False, where=where): value for name, value in parts}


def _parts(family: ModelFamily, name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    path, mark, rest = name.removeprefix(PREFIX).partition(".lora_")
    if mark and is_stack(family.keys, path):
        for place, part in enumerate(value.unbind(0)):
            yield f"{path}[{place}]{mark}{rest}", part
    else:
        yield name, value


def _renamed(name: str, family: ModelFamily, *, to_ours: bool, where: Path) -> str:
    """Translate the module part of `base_model.model.PATH.lora_A.weight`."""
    inner = name.removeprefix(PREFIX)
    path, mark, rest = inner.partition(".lora_")
    if not mark:
        path, mark, rest = inner.rpartition(".")
    if path.endswith(WRAPPED):  # a bias of an adapted layer
        path, mark = path.removesuffix(WRAPPED), WRAPPED + mark
    translated = family.keys.to_ours(path) if to_ours else family.keys.to_official(path)
    if translated is None:
        raise ModelError(f"{where}: {path} is no layer of a {family.name} model. The adapter belongs to another base.")
    return f"{'' if to_ours else PREFIX}{translated}{mark}{rest}"


def official_config(model: DiffusionModel, official: Mapping[str, Tensor]) -> dict[str, Any]:
    """PEFT's configuration with full official paths, since leaf names are ambiguous: targets as one pattern."""
    config = next(iter(model.peft_config.values())).to_dict()  # type: ignore[union-attr]
    # not from the configuration: PEFT shortens a list of 20 targets or more to our leaf names
    paths = {name.removeprefix(PREFIX).partition(".lora_")[0] for name in official if ".lora_" in name}
    patterns = {re.sub(r"\d+", r"\\d+", re.escape(path)) for path in paths}
    config["target_modules"] = "|".join(sorted(patterns))
    if config["modules_to_save"]:
        config["modules_to_save"] = [model.family.keys.to_official(path) or path for path in config["modules_to_save"]]
    config["inference_mode"] = True
    return {key: value for key, value in config.items() if _is_json(value)}


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | dict)
