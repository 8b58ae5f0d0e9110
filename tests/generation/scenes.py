"""One step of decoding, made by hand: what a strategy is shown, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal, Rules, propose
from unmask.generation.strategy import DecodingStrategy, Step, Transfer
from unmask.registry import STRATEGIES


@dataclass
class Scene:
    """Rows that are one block each; the last id of the vocabulary is the mask."""

    logits_BLV: Tensor
    is_masked_BL: Tensor
    tokens_BL: Tensor
    quota: int = 1
    within: int = 0
    rows: tuple[int, ...] = ()
    seed: int = 0

    @property
    def canvas(self) -> Canvas:
        count, length = self.is_masked_BL.shape
        rows = self.rows or tuple(range(count))
        nothing = torch.zeros_like(self.is_masked_BL)
        return Canvas(self.tokens_BL, self.is_masked_BL, nothing, (0,) * count, (length,) * count, rows)

    @property
    def step(self) -> Step:
        count, length = self.is_masked_BL.shape
        first, quota = torch.zeros(count, dtype=torch.int64), torch.full((count,), self.quota)
        seeds = tuple(range(self.seed, self.seed + count))
        return Step(self.within, (0,) * count, (self.within,) * count, length, first, quota, seeds)

    @property
    def proposal(self) -> Proposal:
        mask = self.logits_BLV.shape[2] - 1
        return propose(self.logits_BLV[self.is_masked_BL], self.is_masked_BL, Rules((mask,)))


def scene(logits_BLV: Tensor, is_masked_BL: Tensor | None = None, **more: Any) -> Scene:
    """A scene in which everything is masked, unless told; filled positions hold token 0."""
    if is_masked_BL is None:
        is_masked_BL = torch.ones(logits_BLV.shape[:2], dtype=torch.bool)
    tokens_BL = is_masked_BL.long() * (logits_BLV.shape[2] - 1)
    return Scene(logits_BLV, is_masked_BL, tokens_BL, **more)


def with_mask(probability_BLV: Tensor) -> Tensor:
    """Logits of these probabilities, and of a mask token after the others."""
    logits_BLV = probability_BLV.log()
    return torch.cat([logits_BLV, torch.zeros_like(logits_BLV[..., :1])], dim=-1)


def of_confidence(confidence_BL: list[list[float]], vocab: int = 40) -> Tensor:
    """Logits of predictions with these probabilities of the best token, the rest shared evenly."""
    best_BL1 = torch.tensor(confidence_BL, dtype=torch.float64)[..., None]
    rest_BLV = ((1 - best_BL1) / (vocab - 1)).expand(*best_BL1.shape[:2], vocab - 1)
    return with_mask(torch.cat([best_BL1, rest_BLV], dim=-1))


def made(name: str, **settings: Any) -> DecodingStrategy:
    return STRATEGIES.get(name)(GenerationOptions.of(strategy=name, **settings))


def decide(name: str, shown: Scene, **settings: Any) -> Transfer:
    """What a new strategy says to one scene."""
    strategy = made(name, **settings)
    return strategy.select(shown.proposal, shown.canvas, shown.step, strategy.init(len(shown.is_masked_BL)))


def places(chosen_BL: Tensor) -> list[list[int]]:
    """Which positions of each row are true."""
    return [row.nonzero()[:, 0].tolist() for row in chosen_BL]


@dataclass
class Played:
    """A run of `drive`: what each step said, and how many steps each row took."""

    history: list[Transfer]
    steps: list[int]


def drive(
    name: str, script: Callable[[int], Tensor], check: Callable[[int], Tensor] | None = None, **settings: Any
) -> Played:
    """Decode rows that are one block each, until the strategy is done with them all.

    `script` gives the logits `[B, L, V]` of each step; `check` gives the log-probabilities `[B, L]` of what stands
    there when it is hidden, for strategies that verify. A row that is finished takes part no more.
    """
    strategy = made(name, **settings)
    everything = scene(script(0))
    state, mask = strategy.init(len(everything.tokens_BL)), everything.logits_BLV.shape[2] - 1
    tokens_BL, is_masked_BL = everything.tokens_BL.clone(), everything.is_masked_BL.clone()
    active, played = torch.arange(len(tokens_BL)), Played([], [0] * len(tokens_BL))
    while len(active):
        within = len(played.history)
        rows = tuple(active.tolist())
        shown = Scene(
            script(within)[active], is_masked_BL[active], tokens_BL[active], within=within, rows=rows, seed=within
        )
        proposal = shown.proposal
        if getattr(strategy, "reads_filled", False):
            proposal = propose(shown.logits_BLV.flatten(0, 1), torch.ones_like(shown.is_masked_BL), Rules((mask,)))
        if check is not None:
            proposal = replace(proposal, verify_log_prob_BL=check(within)[active])
        transfer = strategy.select(proposal, shown.canvas, shown.step, state)
        after = shown.canvas.apply(transfer.write_BL, proposal.predicted_BL, transfer.remask_BL, mask)
        tokens_BL[active], is_masked_BL[active] = after.tokens_BL, after.is_masked_BL
        played.history.append(transfer)
        for row in rows:
            played.steps[row] += 1
        is_open_B = after.is_masked_BL.any(1)
        active = active[is_open_B if transfer.stay_B is None else is_open_B | transfer.stay_B]
    return played


def written(played: Played) -> list[list[int]]:
    """Which positions each step wrote in a run of one row."""
    return [places(transfer.write_BL)[0] for transfer in played.history]
