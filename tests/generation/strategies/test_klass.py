"""What is probable and calm is committed: an example by hand, and the reference's history kept as lists."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from tests.generation.scenes import drive, of_confidence, written


def example(within: int) -> Tensor:
    """Positions 0-2 surest and calm, 3 sure and calm, 4 sure and restless, 5 calm and unsure."""
    return of_confidence([[0.9993, 0.9992, 0.9991, 0.95, (0.99, 0.93)[within % 2], 0.6]])


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [[0], [1], [2, 3], [4], [5]]),
        ({"kl_history": 1}, [[0], [1, 2, 3], [4], [5]]),
        ({"kl_history": 3}, [[0], [1], [2], [3], [4], [5]]),
        ({"kl_threshold": 0.1}, [[0], [1], [2, 3, 4], [5]]),
        ({"threshold": 0.5, "kl_threshold": 0.1}, [[0], [1], [2, 3, 4, 5]]),
        ({"threshold": 0.999}, [[0], [1], [2], [3], [4], [5]]),
        ({"kl_threshold": 0.0}, [[0], [1], [2], [3], [4], [5]]),
    ],
)
def test_by_hand(settings: dict, steps: list[list[int]]) -> None:
    assert written(drive("klass", example, **settings)) == steps


def by_lists(script: Tensor, threshold: float, least_change: float, history: int) -> list[list[int]]:
    """The rule as the reference keeps it: a list of divergences per position, the first against nothing at all."""
    length = script.shape[1]
    masks, done = set(range(length)), []
    changes: list[list[float]] = [[] for _ in range(length)]
    before = torch.full_like(script[0], 1e-12).log()
    for now in script.log_softmax(-1):
        for place in range(length):
            changes[place].append(float(kl_div(before[place], now[place], log_target=True, reduction="sum")))
        before = now
        sure = {place: float(now[place].max().exp()) for place in masks}
        calm = [
            place
            for place in sorted(masks)
            if len(changes[place]) >= history and max(changes[place][-history:]) < least_change
        ]
        ready = [place for place in calm if sure[place] >= threshold]
        done.append(ready or [max(sorted(masks), key=lambda place: sure[place])])
        masks -= set(done[-1])
        if not masks:
            break
    return done


@pytest.mark.parametrize("history", [1, 2, 3])
def test_it_is_the_reference_s_rule(history: int) -> None:
    several = 0
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        walk = torch.randn(24, 12, 6, generator=generator, dtype=torch.float64)
        walk = torch.cat([walk[:1] * 3, walk[1:] * 0.15]).cumsum(0)
        expected = by_lists(walk, 0.6, 0.01, history)
        several += sum(len(step) > 1 for step in expected)
        script = torch.cat([walk, torch.full_like(walk[..., :1], 9.0)], dim=-1)
        settings = {"threshold": 0.6, "kl_threshold": 0.01, "kl_history": history}
        assert written(drive("klass", lambda within, script=script: script[within][None], **settings)) == expected
    assert several > 5


def test_a_token_without_probability_adds_nothing() -> None:
    logits = torch.tensor([[[1.0, -torch.inf, -torch.inf, 0.0], [2.0, 1.0, -torch.inf, 0.0]]])
    assert written(drive("klass", lambda within: logits, kl_history=1)) == [[0], [1]]
    assert written(drive("klass", lambda within: logits.flip(1), kl_history=1, threshold=0.1)) == [[1], [0]]
