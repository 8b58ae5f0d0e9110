"""Predictions that come back earn credit, and credit decides what is proposed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.generation.scenes import made
from tests.generation.toys import Contextual, Recorder
from unmask.generation.canvas import Canvas
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions
from unmask.generation.strategy import Step

VOCAB, MASK, LENGTH = 7, 6, 5


class Wavering(Recorder):
    """Logits that change with how much is written, and with nothing else."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(LENGTH + 1, LENGTH, VOCAB, generator=generator, dtype=torch.float64) * 2

    def logits_BLV(self, tokens_BL: Tensor, is_valid_BL: Tensor) -> Tensor:
        return torch.stack([self.table[int((row == MASK).sum())] for row in tokens_BL])


def by_hand(model: Wavering, threshold: float, alpha: float, gamma: float, beta: float) -> tuple[list[int], int]:
    """The method on one block in plain numbers: what is written, and in how many steps."""
    row, steps = [MASK] * LENGTH, 0
    credit = [dict[int, float]() for _ in row]
    while MASK in row:
        logits = model.table[row.count(MASK)].tolist()
        steps, found = steps + 1, list[tuple[float, int, int]]()
        for place, values in enumerate(logits):
            if row[place] != MASK:
                continue
            scores = {token: value for token, value in enumerate(values) if token != MASK}
            total = math.fsum(math.exp(value) for value in scores.values())
            best = max(scores, key=lambda token: scores[token])
            credit[place] = {token: earned * beta for token, earned in credit[place].items()}
            credit[place][best] = credit[place].get(best, 0.0) + (math.exp(scores[best]) / total) ** gamma
            fused = {
                token: value + alpha * math.log(1 + credit[place].get(token, 0.0)) for token, value in scores.items()
            }
            whole = math.fsum(math.exp(value) for value in fused.values())
            token = max(fused, key=lambda token: fused[token])
            found.append((math.exp(fused[token]) / whole, place, token))
        sure = [entry for entry in found if entry[0] >= threshold] or [max(found, key=lambda entry: entry[0])]
        for _, place, token in sure:
            row[place] = token
    return row, steps


@pytest.mark.parametrize("seed", range(12))
def test_what_is_written_is_what_the_rule_says(seed: int) -> None:
    threshold, alpha, gamma, beta = [(0.9, 0.7, 0.2, 0.8), (0.6, 3.0, 0.5, 0.9), (0.8, 2.0, 1.0, 0.1)][seed % 3]
    model = Wavering(seed)
    options = GenerationOptions(
        max_new_tokens=LENGTH,
        block_size=LENGTH,
        strategy="credit",
        threshold=threshold,
        credit_weight=alpha,
        credit_power=gamma,
        credit_decay=beta,
        precise_sampling=True,
    )
    (done,) = generate(model, [[]], options=options, mask_token_id=MASK)
    assert (done.token_ids, done.stats.forwards.total) == by_hand(model, threshold, alpha, gamma, beta)


def test_without_weight_it_is_the_threshold() -> None:
    settings = {"max_new_tokens": 12, "block_size": 4, "threshold": 0.5}
    ways = [{"strategy": "credit", "credit_weight": 0.0}, {"strategy": "threshold"}]
    outs = [
        generate(Contextual(), [[1, 2]], options=GenerationOptions(**settings, **way), mask_token_id=15) for way in ways
    ]
    assert outs[0][0].token_ids == outs[1][0].token_ids
    assert outs[0][0].stats == outs[1][0].stats


def test_a_token_that_came_back_wins_over_one_that_came_once() -> None:
    strategy = made("credit", credit_weight=3.0)
    state, masked = strategy.init(1), torch.ones(1, 1, dtype=torch.bool)
    canvas = Canvas(torch.zeros(1, 1, dtype=torch.int64), masked, ~masked, (0,), (1,), (0,))
    zero = torch.zeros(1, dtype=torch.int64)
    steady, other = torch.tensor([[2.0, 1.5, 0.0]]), torch.tensor([[1.5, 1.7, 0.0]])
    for within, logits in enumerate((steady, steady, other)):
        step = Step(within, (0,), (within,), 1, zero, zero + 1, (0,))
        fused = strategy.adjusted(logits, masked, canvas, step, state)
    assert other.argmax() == 1 and fused.argmax() == 0
    begun = Step(3, (1,), (0,), 1, zero, zero + 1, (0,))
    assert strategy.adjusted(other, masked, canvas, begun, state).argmax() == 1
