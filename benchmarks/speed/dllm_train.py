"""ZHZisZZ/dllm's side of the training step, run by its own Python: `dllm_train.py CHECKOUT`; jobs as in `stepping`.

Its trainer's own `compute_loss` is timed, with times and masks handed to it in place of its random numbers; then the
backward pass, clipping and the optimizer.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import torch
from dllm_side import SPECIAL, load
from stepping import Steps, config_of, serve


class Handed:
    """`torch`, whose next random numbers are the job's."""

    def __init__(self) -> None:
        self.queue: list[torch.Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def rand(self, *size: Any, device: Any = None) -> torch.Tensor:
        """The next of the queue."""
        return self.queue.pop(0).to(device)


class Theirs(Steps):
    """Their trainer around their model."""

    def __init__(self, job: dict[str, Any]) -> None:
        from dllm.core.trainers import mdlm

        self.handed = Handed()
        mdlm.torch = self.handed
        dtype = "float32" if job["dtype"] == "autocast" else job["dtype"]
        model = load({**job, "dtype": dtype, "peer": {"sampler": "mdlm"}}).to(job["device"]).train()
        if job.get("recompute"):
            model.gradient_checkpointing_enable()  # of whole layers, by their own strategy of that name
        if job["lora"]:
            from peft import LoraConfig, get_peft_model

            model = get_peft_model(
                model, LoraConfig(r=32, lora_alpha=64, lora_dropout=0.05, target_modules="all-linear")
            )
        special = SimpleNamespace(**{name: config_of(job)[name] for name in SPECIAL}, padding_side="right")
        settings = {"report_to": [], "eval_strategy": "no", "use_cpu": job["device"] == "cpu"}
        args = mdlm.MDLMConfig(output_dir=job["folder"], **settings)
        self.trainer = mdlm.MDLMTrainer(model=model, args=args, processing_class=special)
        super().__init__(model, job)

    def loss(self, work: dict[str, Any]) -> torch.Tensor:
        inputs = {name: torch.tensor(work[name], device=self.device) for name in ("input_ids", "labels")}
        if work["attention_mask"]:
            inputs["attention_mask"] = torch.tensor(work["attention_mask"], device=self.device)
        epsilon, masked = self.trainer.time_epsilon, torch.tensor(work["masked"])
        self.handed.queue = [(torch.tensor(work["times"]) - epsilon) / (1 - epsilon), torch.where(masked, -1.0, 2.0)]
        with self.mixed():
            return self.trainer.compute_loss(self.model, inputs)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    serve(Theirs)
