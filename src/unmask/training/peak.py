"""How fast a device could compute: what utilisation is a share of."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import TrainingArguments

from unmask.models.linear import linear

# Vendors' data sheets, dense products, 10^12 operations per second: bfloat16, float32 as TF32, float32 itself.
# The first name counts whose words the device's own has, and beside them words of no weight alone: an "RTX 4090 Laptop
# GPU", a 3090 Ti or a part of a card (MIG) is another device, and one that nobody listed.
_CARDS: tuple[tuple[str, float, float, float], ...] = (
    ("GB200", 2500.0, 1250.0, 80.0),
    ("B200", 2250.0, 1100.0, 75.0),
    ("H200 NVL", 835.0, 417.0, 60.0),
    ("H200", 989.0, 494.0, 67.0),
    ("H100 NVL", 835.0, 417.0, 60.0),
    ("H100 PCIe", 756.0, 378.0, 51.0),
    ("GH200", 989.0, 494.0, 67.0),
    ("H100", 989.0, 494.0, 67.0),
    ("H800", 989.0, 494.0, 67.0),
    ("H20", 148.0, 74.0, 44.0),
    ("A100", 312.0, 156.0, 19.5),
    ("A800", 312.0, 156.0, 19.5),
    ("A40", 149.7, 74.8, 37.4),
    ("A30", 165.0, 82.0, 10.3),
    ("RTX A6000", 154.8, 77.4, 38.7),
    ("L40S", 362.0, 183.0, 91.6),
    ("L40", 181.0, 90.5, 90.5),
    ("L4", 121.0, 60.0, 30.3),
    ("RTX 4090", 165.2, 82.6, 82.6),
    ("RTX 3090", 71.0, 35.6, 35.6),
    ("MI300X", 1307.0, 654.0, 163.0),
)
_NO_WEIGHT = re.compile(r"NVIDIA|AMD|GeForce|Tesla|Instinct|PCI[Ee]|SXM\d?|HBM\d?e?|\d+GB?|OAM|VF")
_SIDE, _TRIALS = 1024, 3


@dataclass(frozen=True)
class Peak:
    """Operations per second of one device, and where the number is from. None: nobody knows."""

    operations: float | None
    source: str


def peak_of_run(args: TrainingArguments, model: Any, told: float | None = None) -> Peak:
    """What this process' device could do in the type of most products of a run."""
    mixed = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    return peak_of(args.device, mixed or model.trunk.embed.weight.dtype, told)


def peak_of(device: torch.device, dtype: torch.dtype, told: float | None = None) -> Peak:
    """What a device could do in a type.

    Args:
        told: 10^12 operations per second, by the user, who is believed.
    """
    if told is not None:
        return Peak(told * 1e12, f"{told:g} TFLOP/s, as told by peak_tflops")
    kind = str(dtype).removeprefix("torch.")
    if device.type == "cpu":
        rate = _measured(dtype)
        return Peak(rate, f"{rate / 1e12:.3g} TFLOP/s, measured by a product of {kind} matrices")
    if device.type != "cuda":
        return Peak(None, f"no peak is known of {device.type}; give peak_tflops")
    name = torch.cuda.get_device_name(device)
    listed = of_card(name, dtype, tf32=_has_tf32())
    if listed is None:
        return Peak(None, f"no peak is known of {name} in {kind}; give peak_tflops")
    return Peak(listed * 1e12, f"{listed:g} TFLOP/s, {name} in {kind} by its data sheet")


def of_card(name: str, dtype: torch.dtype, *, tf32: bool = False) -> float | None:
    """A GPU's peak by the name it gives itself, 10^12 operations per second; None: not in the table."""
    words = re.split(r"[\s-]+", name.strip())
    row = next((row for row in _CARDS if _is_card(row[0].split(), words)), None)
    if row is None or dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return None
    return row[1] if dtype != torch.float32 else row[2] if tf32 else row[3]


def _has_tf32() -> bool:
    """Whether products in float32 are made of TF32, on a GPU."""
    matmul = torch.backends.cuda.matmul
    # not by get_float32_matmul_precision, which raises where one spoke to PyTorch in its new words, of 2.9 and later
    return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else bool(matmul.allow_tf32)


def _is_card(model: list[str], words: list[str]) -> bool:
    """Whether a device's words are those of a model, one behind the other, and others that tell nothing."""
    for start in range(len(words) - len(model) + 1):
        end = start + len(model)
        if words[start:end] == model:
            return all(_NO_WEIGHT.fullmatch(word) for word in (*words[:start], *words[end:]))
    return False


@cache
def _measured(dtype: torch.dtype) -> float:
    """The best of a few products on as many threads as PyTorch uses; some tens of milliseconds, once a process."""
    one, other = (torch.ones(_SIDE, _SIDE, dtype=dtype) for _ in range(2))
    best = float("inf")
    with torch.no_grad():
        for _ in range(1 + _TRIALS):
            began = time.perf_counter()
            linear(one, other)
            best = min(best, time.perf_counter() - began)
    return 2 * _SIDE**3 / best
