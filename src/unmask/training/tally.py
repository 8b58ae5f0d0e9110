"""Sums of what a run reports: they stay on the device until somebody asks, and are then added up over all processes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from unmask.types import LossSums


@dataclass
class Tally:
    """The metrics of all forwards since the last report."""

    sums: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, sums: LossSums) -> None:
        """Count one forward."""
        for name, (total, count) in sums.metrics.items():
            held = self.sums.setdefault(name, [torch.zeros_like(total), torch.zeros_like(count)])
            held[0] += total
            held[1] += count

    def report(self, device: torch.device) -> dict[str, float]:
        """Means over all ranks; begins anew."""
        names, where = sorted(self.sums), exact(device)
        if not names:
            return {}
        total = torch.stack([value.to(where, torch.float64) for name in names for value in self.sums[name]])
        if dist.is_initialized():
            dist.all_reduce(total)
        figures = total.tolist()
        self.sums = {}
        return {name: figures[2 * i] / max(figures[2 * i + 1], 1.0) for i, name in enumerate(names)}

    def is_finite(self, device: torch.device) -> bool:
        """Whether all sums so far are numbers, on every rank."""
        sums = [held[0].to(device, torch.float32) for held in self.sums.values()]
        total = torch.stack(sums).sum() if sums else torch.zeros((), device=device)
        if dist.is_initialized():
            dist.all_reduce(total)
        return bool(total.isfinite())


def exact(device: torch.device) -> torch.device:
    """Where float64 exists: not on Apple's GPUs."""
    return torch.device("cpu") if device.type == "mps" else device
