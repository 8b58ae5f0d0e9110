"""Layers through torch.compile: what comes before attention and what comes after it, two graphs that all layers share.

Attention stays outside, with its masks and the stored keys and values: each of its forms has a kernel of its own, and
what is left depends on tensors alone, so that rows of any number and any length need no further graph. Knows the two
parts of a layer (`dense.Layer`) and no configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any, cast

import torch
from torch import nn

from unmask.errors import ConfigError, ResourceError, did_you_mean
from unmask.models.dense import DenseTrunk, Layer
from unmask.models.linear import Linear
from unmask.models.native.library import compiler
from unmask.models.quantized import quantization_of

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_CAPTURING = ("reduce-overhead", "max-autotune")


def compile_layers(
    model: Any, *, backend: str | None = None, mode: str | None = None, device: str | None = None
) -> None:
    """Compile a `DiffusionModel`, in place; what it computes is the same up to rounding.

    To be called when all adapters are on. The first forwards take longer, up to a minute; but on a processor a small
    network decodes in float32 by code of our own, which takes two seconds to compile (`native/`).

    Args:
        backend: of torch.compile; None: inductor.
        mode: of torch.compile, one of `MODES`.
        device: type of the device that will compute, cuda for one; None: the one that the model is on.

    Raises:
        ConfigError: the model is quantised, or there is no such backend or mode.
        ResourceError: there is no compiler of C++, which inductor needs on a CPU.
    """
    backend = "inductor" if backend is None else backend
    kind_of_device: str = model.device.type if device is None else device
    check(quantization_of(model), kind_of_device, backend, mode)
    compiled = partial(torch.compile, dynamic=True, backend=backend, mode=mode)
    trunk: DenseTrunk = model.trunk
    # a kind of MLP has a pair of its own: one pair for all would be told apart by its guards, in every call
    pairs: dict[type[nn.Module], tuple[Callable[..., Any], ...]] = {}
    for layer in trunk.layers:
        assert isinstance(layer, Layer)
        kind = type(layer.mlp)
        if kind not in pairs:
            pairs[kind] = tuple(compiled(_own(part)) for part in (Layer.ask, Layer.answer))
        layer.ask, layer.answer = (partial(part, layer) for part in pairs[kind])
    trunk.captures = mode in _CAPTURING and backend == "inductor"
    trunk.is_native = backend == "inductor" and kind_of_device == "cpu"
    if isinstance(model.head, Linear):
        model.head.is_native = trunk.is_native


def check(quantization: str | None, device: str, backend: str = "inductor", mode: str | None = None) -> None:
    """Refuse what cannot be compiled: see `compile_layers`."""
    if quantization:
        raise ConfigError(
            f"a model held in {quantization} cannot be compiled: its products are calls into bitsandbytes. Leave out "
            "compiling or quantisation."
        )
    known = torch.compiler.list_backends(exclude_tags=())
    for name, what, allowed in (("backend", backend, known), ("mode", mode or "default", MODES)):
        if what not in allowed:
            raise ConfigError(
                f'torch.compile has no {name} "{what}"; there are {", ".join(allowed)}.{did_you_mean(what, allowed)}'
            )
    if backend == "inductor" and device == "cpu" and compiler() is None:
        raise ResourceError(
            "compiling for a CPU needs a compiler of C++, and there is none here. Install g++ (or name yours in CXX), "
            "or leave out compiling."
        )


def _own(part: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a function with code of its own: graphs, and how many there may be, are counted by code."""
    function = cast("FunctionType", part)
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
