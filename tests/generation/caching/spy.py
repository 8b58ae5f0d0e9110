"""What a cache must not change: the logits that a run saw, row by row and step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import pytest
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.strategies.threshold import Threshold
from unmask.generation.strategy import Step, Transfer
from unmask.generation.trace import Completion
from unmask.models.shell import DiffusionModel
from unmask.registry import STRATEGIES
from unmask.types import DenoiserOutput

MASK = 63


class Spy(Threshold):
    """The strategy threshold, which keeps the logits it was shown: (row, block, step) -> [pending, V]."""

    shown: ClassVar[dict[tuple[int, int, int], Tensor]] = {}

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: Any) -> Transfer:
        """See `DecodingStrategy`."""
        counts = proposal.pending_BL.sum(1).tolist()
        for row, block, within, logits in zip(
            canvas.rows, step.blocks, step.withins, proposal.logits_nV.split(counts), strict=True
        ):
            self.shown[row, block, within] = logits
        return super().select(proposal, canvas, step, state)


class Counting:
    """A model that counts the tokens it is fed and the rows of its forwards."""

    def __init__(self, model: DiffusionModel) -> None:
        self.model, self.new_cache = model, model.new_cache
        self.fed, self.rows = 0, 0

    def __call__(self, tokens_BL: Tensor, **rest: Any) -> DenoiserOutput:
        self.fed += tokens_BL.numel()
        self.rows += len(tokens_BL)
        return self.model(tokens_BL, **rest)


class Seen(NamedTuple):
    """A run: what it wrote and the logits it saw."""

    done: list[Completion]
    shown: dict[tuple[int, int, int], Tensor]

    def row(self, number: int) -> dict[tuple[int, int], Tensor]:
        """The logits of one row."""
        return {key[1:]: logits for key, logits in self.shown.items() if key[0] == number}


def watch(
    monkeypatch: pytest.MonkeyPatch,
    model: Any,
    prompts: Sequence[Sequence[int]],
    stops: Sequence[int] = (),
    **settings: Any,
) -> Seen:
    """Decode in float64 with the strategy `Spy`."""
    shown: dict[tuple[int, int, int], Tensor] = {}
    monkeypatch.setattr(Spy, "shown", shown)
    monkeypatch.setitem(STRATEGIES.table, "spy", "tests.generation.caching.spy:Spy")
    options = GenerationOptions.of(strategy="spy", precise_sampling=True, **settings)
    return Seen(generate(model, prompts, options=options, mask_token_id=MASK, stop_token_ids=stops), shown)


def assert_same_logits(ours: dict[Any, Tensor], theirs: dict[Any, Tensor]) -> None:
    """Equal to 1e-10, in the same steps."""
    assert ours.keys() == theirs.keys()
    for key, logits in ours.items():
        finite = theirs[key].isfinite()
        assert (finite == logits.isfinite()).all()
        assert (logits - theirs[key])[finite].abs().max() < 1e-10
