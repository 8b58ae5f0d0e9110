"""From a name to a model with its tokenizer. Knows no decoding."""

from __future__ import annotations

import os

import torch

from unmask.errors import ConfigError, ResourceError
from unmask.lm.model import DiffusionLM
from unmask.models.adapters import base_of, is_adapter, load_adapter, tokenizer_folder
from unmask.models.checkpoints import load_model
from unmask.models.compiling import check, compile_layers
from unmask.models.folders import resolve_folder
from unmask.models.tokenizers import load_tokenizer


def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    device: str | torch.device = "auto",
    adapter: str | os.PathLike[str] | None = None,
    quantization: str | None = None,
    compile: bool = False,
) -> DiffusionLM:
    """Load a model and its tokenizer.

    Args:
        name_or_path: folder or Hub id; a folder with an adapter brings the base it names.
        dtype: type of the weights; auto: as stored.
        device: auto: the first GPU, in a process of torchrun or accelerate its own one, or the CPU where there is none.
        adapter: folder of a LoRA adapter to put on top.
        quantization: 4bit or 8bit: hold the layers' matrices in so few bits, through bitsandbytes; None: as stored.
        compile: put the layers through torch.compile: the first tokens take up to a minute longer, later ones less
            time, on a GPU most of all. On a CPU a small network decodes in float32 by code of our own, ready after
            two seconds.

    Raises:
        ConfigError: `dtype`, `device` or `quantization` is not one of those known, or does not go with `compile`.
        ModelError: there is no such model, or its files are missing, damaged or do not fit.
        ResourceError: the device is not there, or bitsandbytes is not installed, or a compiler of C++ on a CPU.
    """
    where = _device(device)
    if compile:
        check(quantization, where.type)
    folder = resolve_folder(name_or_path)
    name = name_or_path
    if adapter is None and is_adapter(folder):
        name, adapter = base_of(folder) or folder, folder
        folder = resolve_folder(name)
    model = load_model(folder, dtype=dtype, device=where, quantization=quantization)  # type: ignore[arg-type]
    model.config._name_or_path = os.fspath(name)
    if adapter is not None:
        load_adapter(model, adapter)
    if compile:
        compile_layers(model)
    return DiffusionLM(model.eval(), load_tokenizer(tokenizer_folder(folder, adapter), model.facts))


def _device(name: str | torch.device) -> torch.device:
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f'device "{name}" is unknown; use auto, cpu, cuda or cuda:N.') from None
    if device.type == "meta":
        raise ConfigError('device "meta" computes nothing; use auto, cpu, cuda or cuda:N.')
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ResourceError(f'device "{name}": no CUDA device is available here. Use device "cpu".')
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError):
        # PyTorch knows the names of machines that it was not built for, and numbers of GPUs that are not there
        raise ResourceError(f'device "{name}" is not available here. Use device "auto" or "cpu".') from None
    return device
