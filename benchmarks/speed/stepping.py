"""A side of the timing of training steps: reads jobs as lines of JSON, answers with the loss, seconds and peak memory.

The first job says which model; each has a batch, as plain lists, in which times and masks are decided already. Both
sides have the same optimizer and clip the same way; seconds are of the processor, or on a GPU of the clock.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

PARTS = ("forward", "backward", "clip", "optimizer")


def config_of(job: dict[str, Any]) -> dict[str, Any]:
    """The model's configuration file."""
    return json.loads((Path(job["folder"]) / "config.json").read_text(encoding="utf-8"))


class Steps:
    """A model and its optimizer."""

    def __init__(self, model: Any, job: dict[str, Any]) -> None:
        self.model, self.is_mixed, self.device = model, job["dtype"] == "autocast", torch.device(job["device"])
        self.takes_turns = self.device.type == "cuda"
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, weight_decay=0.01, fused=True)

    def loss(self, work: dict[str, Any]) -> torch.Tensor:
        """The mean loss of a batch, with its graph."""
        raise NotImplementedError

    def mixed(self) -> AbstractContextManager[Any]:
        """Mixed precision, where the job asks for it."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.is_mixed else nullcontext()

    def turn(self, work: dict[str, Any]) -> dict[str, Any]:
        """A step in this side's turn. A GPU is for one side alone: the others keep what they have elsewhere.

        There two steps are made, of which the second is timed: the first asks for memory that the allocator gave back.
        """
        if not self.takes_turns:
            return self.step(work)
        self.move(self.device)
        first = self.step(work)
        found = {**self.step(work), "loss": first["loss"]}
        self.move(torch.device("cpu"))
        torch.cuda.empty_cache()
        return found

    def move(self, device: torch.device) -> None:
        """Weights and what the optimizer knows of them go to a device; the parameters stay the same objects."""
        self.model.to(device)
        for known in self.optimizer.state.values():
            known.update({name: value.to(device) for name, value in known.items() if isinstance(value, torch.Tensor)})

    def step(self, work: dict[str, Any]) -> dict[str, Any]:
        """A whole step, its parts timed."""
        clock = [self._now()]
        loss = self.loss(work)
        clock.append(self._now())
        loss.backward()
        clock.append(self._now())
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        clock.append(self._now())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        clock.append(self._now())
        parts = [after - before for before, after in zip(clock, clock[1:], strict=False)]
        took = {"seconds": clock[-1] - clock[0], "parts": dict(zip(PARTS, parts, strict=True))}
        return {"loss": loss.item(), **took, "peak": self._peak()}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(side: Callable[[dict[str, Any]], Any]) -> None:
    """Answer every job: one step, or with `check` whatever the side compares."""
    # what an import says belongs to nobody's answer
    answers, sys.stdout = sys.stdout, sys.stderr
    steps = None
    for line in sys.stdin:
        job = json.loads(line)
        if steps is None:
            if job["device"] == "cpu":
                torch.set_num_threads(1)
            steps = side(job)
        found = steps.check(job["work"]) if job.get("check") else steps.turn(job["work"])
        print(json.dumps(found), file=answers, flush=True)
