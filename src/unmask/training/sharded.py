"""Weights of a model that FSDP2 divides, as whole tensors and back.

PyTorch's own way to a state dict looks for every buffer by its name, which layers held in 8 bits do not have.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def gather_trained(model: nn.Module) -> dict[str, Tensor]:
    """name -> tensor on the CPU of what is trained; empty but in the first process. Every process must call this."""
    found: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
            if dist.get_rank() == 0:
                found[name] = whole.detach().to("cpu", copy=True)
    return found


def set_weights(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Give each process its part of whole weights; those that are frozen stay as they are."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and name in values:
                value = values[name].to(weight.device, weight.dtype)
                own = isinstance(weight, DTensor)
                weight.copy_(distribute_tensor(value, weight.device_mesh, weight.placements) if own else value)
