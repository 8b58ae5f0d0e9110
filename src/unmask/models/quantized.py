"""Matrices of a network held in 4 or 8 bits by bitsandbytes: NF4 (Dettmers et al. 2023, QLoRA) and LLM.int8 (2022).

Only the linear layers between embedding and head are held so, as the papers do. Weights are quantised one by one as
they are read; what can be trained on top is an adapter. Knows no file and no adapter.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from unmask.errors import ConfigError, ResourceError, did_you_mean

Quantization = Literal["4bit", "8bit"]
# NF4 shares one scale among so many neighbours; on a CPU, rows that end within such a block come out wrong
BLOCK = 64
# activations larger than this are multiplied in full, by the paper's rule
_OUTLIER = 6.0
_FLAGS = {"4bit": "is_loaded_in_4bit", "8bit": "is_loaded_in_8bit"}  # PEFT's and transformers' names


def checked(name: str | None) -> Quantization | None:
    """The kind of quantisation that a name means; None: none.

    Raises:
        ConfigError: it means none that there is.
    """
    if name is None or name in get_args(Quantization):
        return name  # type: ignore[return-value]
    raise ConfigError(
        f'quantization "{name}" is not one of {", ".join(get_args(Quantization))}.'
        f"{did_you_mean(str(name), get_args(Quantization))}"
    )


def quantization_of(model: nn.Module) -> Quantization | None:
    """How the model's matrices are held; None: in full."""
    return next((kind for kind in get_args(Quantization) if getattr(model, _FLAGS[kind], False)), None)


def import_bitsandbytes() -> Any:
    """The module. Where the package `kernels` is there too, importing it would fetch programs from the Hub.

    Raises:
        ResourceError: it is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ResourceError('4- and 8-bit weights need bitsandbytes. Install it: pip install "unmask[quant]"')
    # the one misses that package, the other tells in every layer of every forward that it rounds
    for teller in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
        logging.getLogger(teller).setLevel(logging.ERROR)
    there = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[reportArgumentType]
    try:
        return import_module("bitsandbytes")
    finally:
        del sys.modules["kernels"]
        if there is not None:
            sys.modules["kernels"] = there


def quantize_layers(model: Any, kind: Quantization, dtype: torch.dtype | None) -> None:
    """Make the linear layers of the trunk ready to hold quantised weights; they are on the meta device still.

    Args:
        model: a `DiffusionModel` without weights.
        kind: 4bit or 8bit.
        dtype: what they compute in; None: in the type of what comes in.

    Raises:
        ConfigError: a layer cannot be held so.
        ResourceError: bitsandbytes is not installed.
    """
    library = import_bitsandbytes()
    if any(weight.dim() > 2 for weight in model.trunk.parameters()):
        raise ConfigError(
            f"the experts of a {model.family.name} model, nearly all of its weights, cannot be held in few bits. Load "
            "it in bfloat16."
        )
    for path, layer in list(model.trunk.named_modules(prefix="trunk")):
        if not isinstance(layer, nn.Linear):
            continue
        if kind == "4bit" and layer.in_features % BLOCK:
            raise ConfigError(
                f"{path} takes {layer.in_features} values, and 4 bits need a multiple of {BLOCK}. Use 8 bits "
                "(--load_in_8bit), or none."
            )
        model.set_submodule(path, _empty(library, kind, layer, dtype))
    setattr(model, _FLAGS[kind], True)


def _empty(library: Any, kind: Quantization, layer: nn.Linear, dtype: torch.dtype | None) -> nn.Module:
    size, has_bias = (layer.in_features, layer.out_features), layer.bias is not None
    if kind == "8bit":
        return library.nn.Linear8bitLt(
            *size, bias=has_bias, has_fp16_weights=False, threshold=_OUTLIER, device=torch.device("meta")
        )
    made = library.nn.Linear4bit(
        *size, bias=has_bias, compute_dtype=dtype, quant_type="nf4", compress_statistics=True, device="meta"
    )
    # once packed for such a processor's own instructions, a layer would let no gradient through any more
    made.support_avx512bf16_for_cpu = False
    return made


def is_quantized(layer: nn.Module) -> bool:
    """Whether a layer holds its weight in 4 or 8 bits, or is to."""
    return type(layer).__module__.startswith("bitsandbytes.")


def packed(layer: nn.Module, value: Tensor, device: torch.device | None) -> nn.Parameter:
    """The weight of such a layer, quantised, on `device`."""
    library, where = import_bitsandbytes(), device or torch.device("cpu")
    value = value if value.dtype in (torch.float32, torch.bfloat16, torch.float16) else value.float()
    if isinstance(layer, library.nn.Linear4bit):
        held = library.nn.Params4bit(
            value, requires_grad=False, quant_type="nf4", compress_statistics=True, blocksize=BLOCK, module=layer
        )
    else:
        held = library.nn.Int8Params(value, requires_grad=False, has_fp16_weights=False)
    return held.to(where)


def as_held(value: Tensor, kind: Quantization) -> Tensor:
    """What is left of a matrix `[out, in]` that was held in so few bits, in float32."""
    library = import_bitsandbytes()
    layer = _empty(library, kind, nn.Linear(*reversed(value.shape), bias=False, device="meta"), None)
    held: Any = packed(layer, value.contiguous(), None)
    if kind == "4bit":
        return library.functional.dequantize_4bit(held.data, held.quant_state).float()
    return held.CB.float() * (held.SCB.float() / 127).unsqueeze(1)
