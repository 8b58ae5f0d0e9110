"""Our side of the training step, and the naive mode it is measured against: `train_side.py ours|naive`.

`ours` is the objective as `unmask` trains it, samples laid end to end. `naive` is what a script out of a paper does:
rows padded to the longest, logits of every position, `F.cross_entropy`. Masks are a function of the samples, so that
both noise the same tokens.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

if sys.argv[1:] == ["ours"]:
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as `unmask pretrain` and `unmask sft` do

import torch
from stepping import Steps, config_of, serve
from torch.nn import functional as F

from unmask.data.collate import Collator, Visit
from unmask.models.adapters import LoraSettings, attach_lora
from unmask.models.checkpoints import load_model
from unmask.models.freed import kept_between_steps
from unmask.models.linear import keep_few_shapes
from unmask.objectives.masked import MaskedDiffusion, MaskedNoise
from unmask.types import Batch, map_tensors


def batch_of(work: dict[str, Any], config: dict[str, Any], *, packed: bool) -> tuple[Batch, MaskedNoise, float]:
    """A batch of the job's rows, its noise, and how many tokens may be noised."""
    rows = []
    for index, (ids, given) in enumerate(zip(work["rows"], work["given"], strict=True)):
        number = work["first"] + index
        visit = Visit(number, number, 0, len(ids), len(ids), bin=0 if packed else None)
        learned = torch.arange(len(ids)) >= given
        rows.append((visit, {"input_ids": torch.tensor(ids), "may_noise": learned}))
    objective = MaskedDiffusion(mask_token_id=config["mask_token_id"], seed=7)
    batch = Collator(config["eos_token_id"], config["pad_token_id"], padding="none")(rows)
    return batch, objective.noise(batch), objective.count(batch)


class Ours(Steps):
    """The product's own step."""

    def __init__(self, job: dict[str, Any], *, naive: bool = False) -> None:
        self.naive, self.config = naive, config_of(job)
        dtype = "float32" if job["dtype"] == "autocast" else job["dtype"]
        model = load_model(job["folder"], dtype=dtype, device=job["device"])
        if job["lora"]:
            attach_lora(model, LoraSettings())
        if job.get("recompute"):
            model.gradient_checkpointing_enable(strategy="whole_layer")
        self._kept = kept_between_steps(model.get_input_embeddings().weight)
        if not naive:
            self._kept.__enter__()  # as `train` does
        super().__init__(model.train(), job)

    def loss(self, work: dict[str, Any]) -> torch.Tensor:
        return self._naive(work) if self.naive else self._ours(work)

    def _ours(self, work: dict[str, Any]) -> torch.Tensor:
        batch, noise, count = self._moved(batch_of(work, self.config, packed=len(set(map(len, work["rows"]))) > 1))
        objective = MaskedDiffusion(mask_token_id=self.config["mask_token_id"])
        with self.mixed():
            return objective(self.model, batch, noise).loss / count

    def _naive(self, work: dict[str, Any]) -> torch.Tensor:
        batch, noise, count = self._moved(batch_of(work, self.config, packed=False))
        weight = torch.zeros(batch.x0_BL.numel(), device=self.device).index_copy(0, noise.masked_at, noise.loss_weight)
        with self.mixed():
            logits_BLV = self.model(noise.xt_BL, attention=noise.attention).logits
            nll = F.cross_entropy(logits_BLV.flatten(0, 1).float(), batch.x0_BL.flatten(), reduction="none")
            return (nll * weight).sum() / count

    def _moved(self, prepared: tuple[Batch, MaskedNoise, float]) -> tuple[Batch, MaskedNoise, float]:
        batch, noise, count = prepared
        return batch.to(self.device), map_tensors(noise, lambda tensor: tensor.to(self.device)), count

    def check(self, work: dict[str, Any]) -> dict[str, Any]:
        """How far loss and gradients of both ways are apart, relative to the naive one's, for the worst parameter."""
        losses, gradients = [], []
        for way in (self._naive, self._ours):
            loss = way(work)
            loss.backward()
            losses.append(loss.item())
            gradients.append([weight.grad for weight in self.trained])
            self.optimizer.zero_grad(set_to_none=True)
        apart = [
            ((mine - other).norm() / other.norm().clamp(min=1e-30)).item()
            for other, mine in zip(*gradients, strict=True)
        ]
        return {"loss": abs(losses[1] / losses[0] - 1), "gradient": max(apart), "parameters": len(apart)}


if __name__ == "__main__":
    if sys.argv[1] == "ours":
        keep_few_shapes()  # as `train` does
    serve(partial(Ours, naive=sys.argv[1] == "naive"))
