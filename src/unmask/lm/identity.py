"""Which model this is: a hash that sees any training."""

from __future__ import annotations

import hashlib

import torch

from unmask.lm.model import DiffusionLM


def fingerprint(lm: DiffusionLM) -> str:
    """A hash of the model: names, shapes and types of its weights, and up to 64 evenly spaced values of each."""
    digest = hashlib.sha256()
    for name, tensor in sorted(lm.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().flatten()
        chosen = flat[:: max(1, flat.numel() // 64)][:64]
        digest.update(chosen.to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:16]
