from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from unmask.generation.proposal import Proposal, Rules, first_best, inverse_cdf, propose

MASK = 5


def proposed(logits: torch.Tensor, **settings: Any) -> Proposal:
    pending = torch.ones(1, len(logits), dtype=torch.bool)
    uniform_n = settings.pop("uniform_n", None)
    return propose(logits, pending, Rules(**{"never": (MASK,), **settings}), uniform_n=uniform_n)


def test_the_mask_is_never_proposed_even_if_it_is_all_the_model_wants() -> None:
    logits = torch.zeros(4, 6)
    logits[:, MASK] = 1e4
    logits[:, 2] = 1.0
    assert proposed(logits).predicted_BL.tolist() == [[2, 2, 2, 2]]


def test_the_mask_is_never_sampled_whatever_the_number_drawn() -> None:
    logits = torch.zeros(4, 6)
    logits[:, MASK] = 50.0
    numbers = torch.tensor([0.0, 0.5, 1 - 2**-53, 1 - 2**-24], dtype=torch.float64)
    for mask in range(6):
        drawn = propose(
            logits.roll(mask + 1, 1),
            torch.ones(1, 4, dtype=torch.bool),
            Rules((mask,), temperature=1.0),
            uniform_n=numbers,
        )
        assert (drawn.predicted_BL != mask).all()


def test_log_probability_is_that_of_the_distribution_without_the_suppressed_and_without_temperature() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(7, 6, generator=generator) * 4
    got = proposed(logits, never=(MASK, 1), temperature=2.0, uniform_n=torch.rand(7, generator=generator).double())
    weights = np.exp(logits.double().numpy())
    weights[:, [1, MASK]] = 0
    chosen = got.predicted_BL[0].numpy()
    expected = np.log(weights[np.arange(7), chosen] / weights.sum(1))
    np.testing.assert_allclose(got.log_prob_BL[0].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert got.log_prob_BL.dtype == torch.float32


def test_half_precision_logits_are_compared_in_float32() -> None:
    # In bfloat16 both probabilities round to 1.
    logits = torch.tensor([[12.0, 0, 0, 0, 0, 0], [14.0, 0, 0, 0, 0, 0]], dtype=torch.bfloat16)
    low, high = proposed(logits).log_prob_BL[0].tolist()
    assert low < high < 0


def test_precise_is_float64() -> None:
    assert proposed(torch.zeros(2, 6), precise=True).log_prob_BL.dtype == torch.float64


def test_tokens_that_go_last_are_still_proposed_but_have_the_lowest_finite_confidence() -> None:
    logits = torch.zeros(2, 6)
    logits[0, 3], logits[1, 4] = 9.0, 1.0
    got = proposed(logits, last=(3,))
    assert got.predicted_BL.tolist() == [[3, 4]]
    assert got.log_prob_BL[0, 0] == torch.finfo(torch.float32).min
    weights = torch.tensor([1.0, 1.0, 1.0, math.e])  # tokens 0, 1, 2 and 4: neither the mask nor token 3 has a share
    assert got.log_prob_BL[0, 1].item() == pytest.approx((weights[-1] / weights.sum()).log().item(), rel=1e-5)


def test_positions_that_are_not_pending_have_no_confidence() -> None:
    pending = torch.tensor([[False, True, False], [True, False, False]])
    got = propose(torch.zeros(2, 6), pending, Rules((MASK,)))
    assert torch.equal(got.log_prob_BL == -torch.inf, ~pending)


def test_the_model_s_logits_are_left_alone() -> None:
    logits = torch.zeros(3, 6)
    proposed(logits, last=(2,))
    assert torch.equal(logits, torch.zeros(3, 6))


def test_margin_and_entropy_of_known_distributions() -> None:
    probabilities = torch.tensor([[0.5, 0.25, 0.25, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2]])
    logits = torch.cat([probabilities.log(), torch.zeros(2, 1)], dim=1)
    got = proposed(logits)
    assert got.margin_BL[0].tolist() == pytest.approx([0.25, 0.0], abs=1e-6)
    assert got.entropy_BL[0].tolist() == pytest.approx([1.5 * math.log(2), math.log(5)], rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampled_marginals(temperature: float) -> None:
    probabilities = np.array([0.05, 0.3, 0.2, 0.0, 0.05, 0.25, 0.1, 0.05])
    with np.errstate(divide="ignore"):
        logits = torch.tensor(np.log(probabilities), dtype=torch.float32)
    draws = 20_000
    numbers = torch.rand(draws, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = inverse_cdf(logits.expand(draws, -1), temperature, numbers)
    tempered = probabilities ** (1 / temperature)
    expected = draws * tempered / tempered.sum()
    counts = np.bincount(tokens.numpy(), minlength=8)
    assert counts[3] == 0
    possible = expected > 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < 22.46  # 0.999 quantile, 6 degrees of freedom


def test_a_temperature_next_to_zero_is_the_best_token() -> None:
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(1)) * 30
    numbers = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(inverse_cdf(logits, 1e-30, numbers), logits.argmax(-1))


def test_the_number_drawn_walks_through_the_tokens_in_order() -> None:
    logits = torch.log(torch.tensor([0.25, 0.5, 0.25])).expand(5, -1)
    numbers = torch.tensor([0.0, 0.2, 0.3, 0.7, 0.8], dtype=torch.float64)
    assert inverse_cdf(logits, 1.0, numbers).tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("words", [4096, 5000, 2**15 - 1, 2**15 + 77, 70_001])
def test_the_first_of_equal_highest_logits_is_found_wherever_it_stands(words: int) -> None:
    logits = torch.randn(7, words, generator=torch.Generator().manual_seed(words)).round(decimals=1)
    for row, place in enumerate((0, 255, 256, words // 2, words - 257, words - 2, words - 1)):
        logits[row, place:] = logits[row, place:].clamp(max=8.0)
        logits[row, place] = logits[row, -1] = 9.0
        logits[row, :place] = logits[row, :place].clamp(max=8.0)
    assert first_best(logits).tolist() == [0, 255, 256, words // 2, words - 257, words - 2, words - 1]
    logits[3, words // 3] = torch.nan
    assert first_best(logits)[3] == words // 3


@pytest.mark.parametrize("words", [512, 2**15 - 1, 2**15, 50_257])
def test_a_position_s_probability_does_not_depend_on_those_beside_it(words: int) -> None:
    row = torch.randn(1, words, generator=torch.Generator().manual_seed(words)) * 3
    alone = propose(row, torch.ones(1, 1, dtype=torch.bool), Rules((MASK,))).log_prob_BL
    weights = np.exp(row.double().numpy())
    weights[:, MASK] = 0
    np.testing.assert_allclose(alone.item(), np.log(weights.max() / weights.sum()), rtol=1e-6)
    many = 2**17 // words + 2
    beside = propose(row.expand(many, -1), torch.ones(1, many, dtype=torch.bool), Rules((MASK,)))
    assert (beside.log_prob_BL == alone).all()
