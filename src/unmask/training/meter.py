"""What training costs: time by part of an update, tokens per second, utilisation, memory.

One part of an update is at work at a time, and the trainer says which; on a GPU the marks between them are events in
its own stream, so that nothing waits before a report asks. What is learned is not known here.
"""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from typing import Any

import psutil
import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from unmask.training.peak import Peak
from unmask.training.work import Cost, Work

PARTS: tuple[str, ...] = ("data", "forward", "backward", "optimizer", "other")


class Clock:
    """Seconds by part; on a GPU those of its stream, in which a part lasts until the next one begins there."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []
        self._paused = 0.0

    def enter(self, part: str) -> None:
        """From now on, time is that of `part`, one of `PARTS`. Before the first call none counts."""
        self._marks.append((part, self._now()))

    def pause(self, seconds: float) -> None:
        """Leave out time just spent on something else than training, as part of `other`."""
        self._paused += seconds if self._marks else 0.0

    def take(self) -> dict[str, float]:
        """Seconds of each part since the last call; waits for a GPU."""
        spent = dict.fromkeys(PARTS, 0.0)
        if self._marks:
            end = (self._marks[-1][0], self._now())
            if self.on_gpu:
                end[1].synchronize()
            for (part, begun), (_, ended) in pairwise([*self._marks, end]):
                spent[part] += begun.elapsed_time(ended) / 1e3 if self.on_gpu else ended - begun
            spent["other"] = max(spent["other"] - self._paused, 0.0)
            self._marks, self._paused = [end], 0.0
        return spent

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Meter(TrainerCallback):
    """Counts work and time between two reports.

    Args:
        device: of this process. cost: of the network. peak: of the device.
    """

    def __init__(self, device: torch.device, cost: Cost, peak: Peak) -> None:
        self.device, self.cost, self.peak = device, cost, peak
        self.clock = Clock(device)
        self._tokens = self._positions = self._operations = 0.0

    def count(self, tokens: int, work: Work) -> None:
        """One forward. `tokens`: of the samples in it, without copies, streams and padding."""
        self._tokens += tokens
        self._positions += work.positions
        self._operations += self.cost.of(work)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The optimizer has done its step; what follows is reports, evaluation, checkpoints."""
        del args, state, control
        self.clock.enter("other")

    def report(self) -> dict[str, float]:
        """Figures since the last report, over all processes; begins anew.

        Returns:
            `tokens_per_second` and `padded_tokens_per_second`, of all processes together; `time_data` and its like,
            per cent of the time; `mfu`, per cent of the peak, where that is known; `peak_memory`, bytes, the most of
            any process so far.
        """
        spent = self.clock.take()
        values = [*spent.values(), self._tokens, self._positions, self._operations]
        self._tokens = self._positions = self._operations = 0.0
        *seconds, tokens, positions, operations = self._over_ranks(values, "sum")
        (memory,) = self._over_ranks([float(peak_memory(self.device))], "max")
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        whole = max(sum(seconds), 1e-9)
        figures = {
            "tokens_per_second": tokens / (whole / ranks),
            "padded_tokens_per_second": positions / (whole / ranks),
            **{f"time_{part}": 100 * part_seconds / whole for part, part_seconds in zip(PARTS, seconds, strict=True)},
            "peak_memory": memory,
        }
        if self.peak.operations is not None:
            figures["mfu"] = 100 * operations / whole / self.peak.operations
        return figures

    def _over_ranks(self, values: list[float], how: str) -> list[float]:
        if not dist.is_initialized():
            return values
        # float64 is absent from Apple's GPUs, which are never several
        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX if how == "max" else dist.ReduceOp.SUM)
        return found.tolist()


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held so far: of the GPU, or else as the system counts them."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def brief(figures: dict[str, float]) -> str:
    """The figures of a report that fit into a line."""
    told = [f"{figures['tokens_per_second']:,.0f} tokens/s"]
    if "mfu" in figures:
        told.append(f"mfu {figures['mfu']:.0f} %")
    shares = "/".join(f"{figures.get(f'time_{part}', 0.0):.0f}" for part in PARTS[:-1])
    told.append(f"data/fwd/bwd/opt {shares} %")
    told.append(f"{figures.get('peak_memory', 0.0) / 2**30:.1f} GiB")
    return "  ".join(told)
