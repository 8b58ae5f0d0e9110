"""One scale for every score."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.generation.scenes import of_confidence, scene, with_mask
from unmask.generation.options import Score
from unmask.generation.proposal import propose
from unmask.generation.scores import certainty_BL

HALF = with_mask(torch.tensor([[[0.5, 0.25, 0.25, 0.0], [0.25] * 4, [1.0, 0.0, 0.0, 0.0]]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("score", "certainty"),
    [
        ("confidence", [0.5, 0.25, 1.0]),
        ("margin", [0.25, 0.0, 1.0]),
        # entropies 3/2 log 2, 2 log 2 and none: one of 2^1.5, one of 4, one of 1 tokens
        ("entropy", [2**-1.5, 0.25, 1.0]),
    ],
)
def test_certainties_by_hand(score: Score, certainty: list[float]) -> None:
    shown = scene(HALF)
    found = certainty_BL(score, shown.proposal, shown.step)
    assert found.isfinite().all()
    assert found.exp()[0].tolist() == pytest.approx(certainty, abs=1e-6)


@pytest.mark.parametrize("score", ["confidence", "margin", "entropy", "random"])
def test_what_is_to_be_committed_last_is_the_least_sure(score: Score) -> None:
    some = [[0.6, 0.3, 0.1, 0.0], [0.5, 0.3, 0.2, 0.0], [0.08, 0.01, 0.01, 0.9], [0.2, 0.7, 0.1, 0.0]]
    shown, last = scene(with_mask(torch.tensor([some], dtype=torch.float64))), (3,)
    logits_nV, pending_BL = shown.proposal.model_nV, shown.proposal.pending_BL
    proposal = propose(logits_nV, pending_BL, replace(shown.proposal.rules, last=last))
    assert proposal.predicted_BL.tolist() == [[0, 0, 3, 1]]
    found = certainty_BL(score, proposal, shown.step)
    assert found.isfinite().all() and found[0].argmin() == 2 and (found[0, [0, 1, 3]] > -100).all()


@pytest.mark.parametrize("score", ["confidence", "margin", "entropy", "random"])
def test_it_is_at_most_nothing_where_pending_and_minus_infinity_elsewhere(score: Score) -> None:
    masked = torch.tensor([[True, False, True, True]])
    shown = scene(of_confidence([[0.9, 0.2, 1.0, 0.026]]), masked)
    found = certainty_BL(score, shown.proposal, shown.step)
    assert (found[masked] <= 1e-6).all() and found[masked].isfinite().all()
    assert found[~masked].tolist() == [-math.inf]
