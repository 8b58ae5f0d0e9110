"""Contests end early where their order is plain, with fewer samples, and otherwise with what all samples say."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.test_estimators import MASK, TOYS, exact
from tests.objectives.test_likelihoods import SIZE, drawn_pairs, tiny
from unmask.objectives.estimators import LikelihoodEstimator
from unmask.objectives.settling import Contest, Settling
from unmask.objectives.target_masks import first_samples, rounds
from unmask.types import DenoiserOutput


def test_rounds_double_up_to_all_samples() -> None:
    assert rounds(128) == [8, 16, 32, 64, 128]
    assert (rounds(100), rounds(24), rounds(15), rounds(1)) == ([25, 50, 100], [12, 24], [15], [1])


@pytest.mark.parametrize("samples", [64, 72])
def test_a_round_holds_the_one_before_and_is_spread_evenly(samples: int) -> None:
    counted = torch.zeros(samples)
    for seed in range(400):
        before: set[int] = set()
        for count in rounds(samples):
            chosen = first_samples(count, samples, seed)
            own = set(chosen.tolist())
            assert before <= own and (chosen * count // samples).tolist() == list(range(count))
            before = own
        counted[first_samples(rounds(samples)[0], samples, seed)] += 1
    # of every stretch each sample is chosen as often, but for chance
    expected = 400 * rounds(samples)[0] / samples
    assert float((counted - expected).abs().max()) < 5 * expected**0.5


@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_what_is_never_settled_has_the_estimates_of_all_samples(scale: float) -> None:
    model, pairs = tiny("llada", embedding_size=SIZE), drawn_pairs(9)
    how = LikelihoodEstimator(SIZE - 1, samples=32, batch_size=7, guidance_scale=scale)
    expected = dict(how.many(model, pairs))
    contests = [Contest(pairs[first : first + 3], [[1.0] * 3]) for first in (0, 3, 6)]
    found = dict(Settling(how, float("inf")).many(model, contests))
    for number, estimates in found.items():
        for place, one in enumerate(estimates):
            right = expected[3 * number + place]
            assert (one.mean, one.samples) == (pytest.approx(right.mean, rel=1e-5, abs=1e-5), right.samples)
            assert one.stderr == pytest.approx(right.stderr, rel=1e-3, abs=1e-5)


def test_first_rounds_are_unbiased() -> None:
    """Eight of sixteen samples of four tokens, over many seeds, against the sum over all orders."""
    pair = [], [1, 1, 0, 2]
    means = []
    for seed in range(800):
        how = LikelihoodEstimator(MASK, samples=16, seed=seed, batch_size=64)
        # ahead of nothing: settled in the first round
        ((_, (one,)),) = Settling(how, 0.0).many(TOYS["wrong"], [Contest([pair], [[1.0]])])
        assert one.samples == 8
        means.append(one.mean)
    means = torch.tensor(means)
    assert abs(float(means.mean()) - exact(TOYS["wrong"], *pair)) < 4 * float(means.std()) / 800**0.5


def apart(sure: float, length: int = 12) -> tuple[list[int], list[int]]:
    """A pair whose tokens are given `sure` nats of log-odds by `Liked`, each."""
    return [int(10 * sure)], [1] * length


class Liked:
    """Finds a target as likely as the first token of the prompt says, with some noise by what is masked."""

    fed = 0

    def __call__(self, tokens_BL, *, logits_at, targets, **_):
        self.fed += len(tokens_BL)
        width = tokens_BL.shape[1]
        row_n, column_n = logits_at // width, logits_at % width
        chance_n = ((tokens_BL == MASK).long() * torch.arange(width) ** 2).sum(1)[row_n] * 7 + column_n * 3
        return DenoiserOutput(nll=3 - tokens_BL[:, 0][row_n] / 10 + (chance_n % 5) / 10)


def test_what_is_plain_ends_early_and_the_rest_goes_on() -> None:
    liked, how = Liked(), LikelihoodEstimator(MASK, samples=64, batch_size=50)
    plain = Contest([apart(1.0), apart(0.0), apart(0.2)], [[1.0] * 3])
    close = Contest([apart(0.5), apart(0.5)], [[1.0] * 2])
    found = dict(Settling(how, 4.0).many(liked, [close, plain]))
    assert [one.samples for one in found[1]] == [8, 8, 8] and [one.samples for one in found[0]] == [64, 64]
    # of eight and of 64 samples there are as many masks at most
    assert 0 < liked.fed <= 3 * 8 + 2 * 64
    assert max(found[1], key=lambda one: one.mean) is found[1][0]
    alone = dict(Settling(how, 4.0).many(liked, [plain]))[0]
    assert [one.mean for one in alone] == pytest.approx([one.mean for one in found[1]])


def test_every_comparison_has_to_be_settled() -> None:
    """Likelier as a whole, but as likely per token: the second comparison goes on."""
    how = LikelihoodEstimator(MASK, samples=32)
    pairs = [apart(0.5, 10), apart(0.5, 20)]
    ((_, raw),) = Settling(how, 4.0).many(Liked(), [Contest(pairs, [[1.0, 1.0]])])
    ((_, both),) = Settling(how, 4.0).many(Liked(), [Contest(pairs, [[1.0, 1.0], [10.0, 20.0]])])
    assert [one.samples for one in raw] == [8, 8] and [one.samples for one in both] == [32, 32]


def test_what_is_exact_has_no_error_and_an_empty_target_is_certain() -> None:
    how = LikelihoodEstimator(MASK, samples=64)
    pairs = [([2, 0, 1], [0]), ([2, 0], [1, 1]), ([2, 0, 1, 0], [])]
    ((_, found),) = Settling(how, 1e9).many(TOYS["true"], [Contest(pairs, [[1.0] * 3])])
    assert [(one.stderr, one.samples) for one in found] == [(0.0, 1), (0.0, 3), (0.0, 8)]
    right = [exact(TOYS["true"], *pair) for pair in pairs[:2]]
    assert [one.mean for one in found] == pytest.approx([*right, 0.0], abs=1e-5)
