"""Our names of tensors and the official ones, also where the official layout keeps apart what we keep in one: experts.

A place in a stack of experts is written into the path, `trunk.layers.0.mlp.experts.gate_proj[3].weight`, so that every
official tensor has one name of ours. Knows no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor

from unmask.models.families import KeyMap, ModelFamily

_PLACE = re.compile(r"\[(\d+)\]")


def to_our_name(family: ModelFamily, official: str) -> str | None:
    """Our name of an official tensor, or None."""
    path, _, leaf = official.rpartition(".")
    ours = family.keys.to_ours(path)
    return f"{ours}.{leaf}" if ours else None


def to_official_name(family: ModelFamily, ours: str) -> str:
    """The official name of one of our tensors, with `*` for the number where it is a stack of several."""
    path, _, leaf = ours.rpartition(".")
    official = official_path(family.keys, path)
    assert official is not None, f"{family.name} maps no module {path}"
    return f"{official}.{leaf}"


def split_place(name: str) -> tuple[str, int | None]:
    """The name of the whole, and the place in it; None where the name is that of a whole."""
    match = _PLACE.search(name)
    return (name, None) if match is None else (_PLACE.sub("", name), int(match[1]))


def in_official_parts(keys: KeyMap, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor of ours, or the parts of it that the official layout has names for, each under our name of it."""
    path, _, leaf = name.rpartition(".")
    if not is_stack(keys, path):
        yield name, tensor
        return
    for place, part in enumerate(tensor.unbind(0)):
        yield f"{path}[{place}].{leaf}", part


def is_stack(keys: KeyMap, path: str) -> bool:
    """Whether a module of ours holds what are several modules in the official layout."""
    return keys.to_official(path) is None and keys.to_official(f"{path}[0]") is not None


def official_path(keys: KeyMap, path: str) -> str | None:
    """The official path of a module of ours; of a stack with `*` for the number of a part; None where there is none."""
    if not is_stack(keys, path):
        return keys.to_official(path)
    first, second = (str(keys.to_official(f"{path}[{place}]")).split(".") for place in (0, 1))
    return ".".join(one if one == other else "*" for one, other in zip(first, second, strict=True))
