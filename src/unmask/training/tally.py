"""Sums of what a run reports: they stay on the device until somebody asks, and are then added up over all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

Sums = dict[str, list[Tensor]]


@dataclass
class Tally:
    """The metrics of all updates since the last report; those of the update at work count when it is kept.

    Attributes:
        sums: name -> [sum, count], of this process. pending: the same, of the update at work.
    """

    sums: Sums = field(default_factory=dict)
    pending: Sums = field(default_factory=dict)

    def add(self, metrics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Count one forward of the update at work."""
        _add(self.pending, metrics)

    def end_update(self, *, kept: bool) -> None:
        """The update at work counts, or is forgotten."""
        if kept:
            _add(self.sums, self.pending)
        self.pending = {}

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

    def state(self) -> dict[str, list[float]]:
        """The sums as plain numbers, to the last bit."""
        return {name: [float(value) for value in pair] for name, pair in self.sums.items()}

    def restore(self, state: Mapping[str, Sequence[float]], device: torch.device) -> None:
        """Go on counting from what `state` gave."""
        _add(self.sums, {name: [torch.tensor(value, device=device) for value in pair] for name, pair in state.items()})


def _add(sums: Sums, more: Mapping[str, Sequence[Tensor]]) -> None:
    for name, (total, count) in more.items():
        held = sums.setdefault(name, [torch.zeros_like(total), torch.zeros_like(count)])
        held[0] += total
        held[1] += count


def exact(device: torch.device) -> torch.device:
    """Where float64 exists: not on Apple's GPUs."""
    return torch.device("cpu") if device.type == "mps" else device
