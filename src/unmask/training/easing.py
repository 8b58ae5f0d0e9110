"""What eases the first updates of a converted model: attention that opens little by little, noise on a new mask token.

Both act on the model while it trains and know the update alone, so a resumed run goes on exactly. Evaluation and
sampling see the model without them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from unmask.models.shell import DiffusionModel
from unmask.training.arguments import Settings
from unmask.types import AttentionSpec


def easing_callbacks(settings: Settings, model: DiffusionModel, rank: int = 0) -> list[TrainerCallback]:
    """Those that the settings ask for, already at work in `model`."""
    chosen, seed = settings.model, settings.trainer.get("seed", 42)
    callbacks: list[TrainerCallback] = []
    if chosen.attention_annealing_steps:
        callbacks.append(OpeningAttention(model, chosen.attention_annealing_steps, seed))
    if chosen.mask_noise_steps:
        callbacks.append(NoisyMask(model, chosen.mask_noise_steps, seed, rank))
    return callbacks


class _Eased(TrainerCallback):
    """Knows how many updates are done, and which forward of the update this is."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done, self.forward = steps, 0, 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.done, self.forward = state.global_step, 0


class OpeningAttention(_Eased):
    """Update k of N lets a share k / N of the pairs see ahead, drawn anew each time (DiffuLLaMA, arXiv 2410.17891).

    Args:
        model: what trains. steps: N; from update N on, all see all. seed: of the draws.
    """

    def __init__(self, model: DiffusionModel, steps: int, seed: int) -> None:
        super().__init__(steps)
        self.seed = seed
        model.register_forward_pre_hook(self._narrow, with_kwargs=True)

    def _narrow(self, model: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        share, asked = (self.done + 1) / self.steps, named.get("attention") or AttentionSpec()
        if not model.training or share >= 1 or asked.kind != "bidirectional":
            return None
        narrow = replace(asked, kind="causal", ahead=share, ahead_seed=self.seed + self.done)
        return given, {**named, "attention": narrow}


class NoisyMask(_Eased):
    """Adds normal noise to the embedding of every mask token, as large as the other embeddings spread, less each time.

    A new token's embedding is the same wherever it stands, and unlike anything the network has seen: the first
    gradients are large (LLaDA2.0, arXiv 2512.15745, adds noise for that reason).

    Args:
        model: what trains. steps: updates until there is none. seed, rank: of the noise.
    """

    def __init__(self, model: DiffusionModel, steps: int, seed: int, rank: int) -> None:
        super().__init__(steps)
        self.seed, self.rank, self.mask_token_id = seed, rank, model.mask_token_id
        embedding = model.get_input_embeddings()
        # before the weights may be divided over processes
        self.spread = embedding.weight.detach().float().std(0)
        self.trunk = model.trunk
        embedding.register_forward_hook(self._disturb)

    def _disturb(self, _: nn.Module, given: tuple[Tensor, ...], embedded_BLD: Tensor) -> Tensor | None:
        left = 1 - self.done / self.steps
        if not self.trunk.training or left <= 0:
            return None
        key = ((self.seed * 1_000_003 + self.done) * 1009 + self.forward) * 4099 + self.rank
        generator = torch.Generator().manual_seed(key % 2**63)
        self.forward += 1
        is_mask_BL1 = (given[0] == self.mask_token_id).unsqueeze(-1)
        noise = torch.randn(embedded_BLD.shape, generator=generator).to(embedded_BLD.device)
        noise = left * noise * self.spread.to(embedded_BLD.device)
        return embedded_BLD + (noise * is_mask_BL1).to(embedded_BLD.dtype)
