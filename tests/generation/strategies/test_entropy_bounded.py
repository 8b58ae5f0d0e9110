"""What is lost by committing together stays within the bound, on Markov sources whose joint is enumerated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.generation.scenes import decide, of_confidence, places, scene, with_mask
from tests.generation.sources import among, independent, marginals, markov


def divergence(joint: Tensor, product: Tensor) -> float:
    """KL(joint || product), in nats."""
    return float(torch.where(joint > 0, joint * (joint / product).log(), 0.0).sum())


@pytest.mark.parametrize("bound", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("score", [None, "confidence", "random"])
def test_the_bound_is_never_violated(bound: float, score: str | None) -> None:
    generator = torch.Generator().manual_seed(3)
    losses = []
    for case in range(40):
        joint = markov(generator, 5, 3, float(case % 5 + 1))
        margin = marginals(joint)
        shown = scene(with_mask(margin[None]), seed=case)
        written = places(decide("entropy_bounded", shown, entropy_bound=bound, score=score).write_BL)[0]
        losses.append(divergence(among(joint, written), independent([margin[axis] for axis in written])))
        assert losses[-1] <= bound + 1e-6
    # The bound is tight enough to be worth testing: some sets lose a part of it.
    assert max(losses) > bound / 10


def test_one_token_more_would_exceed_the_bound() -> None:
    generator = torch.Generator().manual_seed(4)
    for case in range(50):
        margin = marginals(markov(generator, 6, 3, float(case % 5 + 1)))
        entropy = -(margin * margin.log()).sum(-1)
        order = entropy.argsort().tolist()
        written = places(decide("entropy_bounded", scene(with_mask(margin[None])), entropy_bound=0.4).write_BL)[0]
        assert sorted(order[: len(written)]) == written
        if len(written) < len(order):
            more = entropy[order[: len(written) + 1]]
            assert float(more.sum() - more.max()) > 0.4


def test_sure_tokens_cost_nothing() -> None:
    shown = scene(of_confidence([[1.0, 1.0, 1.0, 0.2]]))
    assert places(decide("entropy_bounded", shown, entropy_bound=0.0).write_BL) == [[0, 1, 2, 3]]
