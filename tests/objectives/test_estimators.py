"""Estimators on toys whose likelihood is known exactly."""

from __future__ import annotations

import itertools
import math
from functools import cached_property

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.diffusion.noising import draw_mask
from unmask.diffusion.schedules import Linear, mask_prob
from unmask.diffusion.timesteps import iid, low_discrepancy
from unmask.diffusion.weights import elbo_weight
from unmask.errors import ConfigError
from unmask.objectives.estimators import (
    Guidance,
    LikelihoodEstimator,
    log_likelihood,
    masked_nll_sums,
)
from unmask.objectives.greedy import GreedyWriting
from unmask.registry import NOISE_SCHEDULES
from unmask.types import DenoiserOutput, SampleKeys

VOCAB, LENGTH, MASK = 3, 4, 3


class Toy:
    """A denoiser that looks its logits up by the noised row: `logits` is [(VOCAB + 1) ** LENGTH, LENGTH, VOCAB]."""

    def __init__(self, logits: Tensor):
        self.logits, self.fed = logits, 0

    def __call__(self, tokens_BL, *, logits_at=None, targets=None, **_) -> DenoiserOutput:
        place = (VOCAB + 1) ** torch.arange(LENGTH)
        self.fed += len(tokens_BL)
        logits = self.logits[(tokens_BL * place).sum(1)].reshape(-1, VOCAB)[logits_at]
        if targets is None:
            return DenoiserOutput(logits=logits)
        return DenoiserOutput(nll=F.cross_entropy(logits.float(), targets, reduction="none"))


def joint() -> Tensor:
    """A distribution over all rows, p[x0, x1, x2, x3], with strong dependencies."""
    generator = torch.Generator().manual_seed(0)
    return torch.softmax(
        2.5 * torch.randn((VOCAB,) * LENGTH, generator=generator, dtype=torch.float64).flatten(), 0
    ).view((VOCAB,) * LENGTH)


def true_denoiser() -> Toy:
    """The exact conditionals of `joint`, by enumeration."""
    logits = torch.zeros((VOCAB + 1) ** LENGTH, LENGTH, VOCAB)
    for index in range((VOCAB + 1) ** LENGTH):
        row = [index // (VOCAB + 1) ** i % (VOCAB + 1) for i in range(LENGTH)]
        fits = joint()
        for i, token in enumerate(row):
            if token != MASK:
                fits = fits * F.one_hot(torch.tensor(token), VOCAB).view(
                    [VOCAB if j == i else 1 for j in range(LENGTH)]
                )
        for i in range(LENGTH):
            marginal = fits.sum([j for j in range(LENGTH) if j != i])
            logits[index, i] = (marginal / marginal.sum()).clamp(min=1e-30).log()
    return Toy(logits)


def wrong_denoiser() -> Toy:
    """Conditionals that belong to no joint distribution."""
    generator = torch.Generator().manual_seed(1)
    return Toy(1.5 * torch.randn((VOCAB + 1) ** LENGTH, LENGTH, VOCAB, generator=generator))


def order_log_probs(toy: Toy, x0: Tensor, prompt: int) -> Tensor:
    """log p(x0 after the prompt) when it is written token by token, for each of the orders."""
    totals = []
    for order in itertools.permutations(range(prompt, LENGTH)):
        row, total = torch.cat([x0[:prompt], torch.full((LENGTH - prompt,), MASK)]), 0.0
        for place in order:
            logits = toy(row[None], logits_at=torch.tensor([place])).logits
            total += float(logits.double().log_softmax(-1)[0, x0[place]])
            row[place] = x0[place]
        totals.append(total)
    return torch.tensor(totals, dtype=torch.float64)


def subsets(prompt: int) -> Tensor:
    """Every mask of the positions after the prompt but the empty one."""
    free = itertools.product([False, True], repeat=LENGTH - prompt)
    return torch.tensor([[False] * prompt + list(mask) for mask in free if any(mask)])


TOYS = {"true": true_denoiser(), "wrong": wrong_denoiser()}
TARGETS = [([], [0, 2, 1, 1]), ([1], [2, 0, 0]), ([2, 0], [1, 1])]


def split(prompt: list[int], target: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.tensor(prompt, dtype=torch.long), torch.tensor(target, dtype=torch.long)
    return (*ids, torch.cat(ids))


def exact(toy: Toy, prompt: list[int], target: list[int]) -> float:
    """The exact bound: the mean over orders; for the true denoiser the log-likelihood, found another way."""
    if toy is TOYS["wrong"]:
        return float(order_log_probs(toy, torch.tensor(prompt + target), len(prompt)).mean())
    p = joint()
    return float(p[tuple(prompt + target)].log() - p[tuple(prompt)].sum().log())


@pytest.mark.parametrize(("prompt", "target"), TARGETS)
def test_the_true_denoiser_gives_the_likelihood_in_any_order(prompt, target):
    logs = order_log_probs(TOYS["true"], torch.tensor(prompt + target), len(prompt))
    torch.testing.assert_close(logs, torch.full_like(logs, exact(TOYS["true"], prompt, target)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize(("prompt", "target"), TARGETS)
def test_all_masks_of_all_counts_average_to_the_exact_value(name: str, prompt, target):
    *_, x0 = split(prompt, target)
    is_masked = subsets(len(prompt))
    x0_BL = x0.expand(is_masked.shape)
    sums = masked_nll_sums(TOYS[name], x0_BL.masked_fill(is_masked, MASK), x0_BL, is_masked)
    count, n = is_masked.sum(1), len(target)
    means = [float((n / k * sums[count == k]).mean()) for k in range(1, n + 1)]
    assert -sum(means) / n == pytest.approx(exact(TOYS[name], prompt, target), abs=1e-5)


@pytest.mark.parametrize("method", ["exact_count", "bernoulli"])
@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize(("prompt", "target"), TARGETS)
def test_many_samples_reach_the_exact_value(name: str, method: str, prompt, target):
    prompt_ids, target_ids, _ = split(prompt, target)
    settings = {"samples": 6000, "mask_token_id": MASK, "seed": 1, "batch_size": 6000, "method": method}
    estimate = log_likelihood(TOYS[name], prompt_ids, target_ids, **settings, enumerates=False)
    assert estimate.samples == 6000 and estimate.stderr < 0.2
    assert abs(estimate.mean - exact(TOYS[name], prompt, target)) < 4 * estimate.stderr + 1e-5


@pytest.mark.parametrize("samples", [3, 4, 8])
def test_few_samples_are_unbiased_over_seeds(samples: int):
    # 4 tokens, 8 samples: where LLaDA's rounding of halves would be biased.
    prompt_ids, target_ids, _ = split(*TARGETS[0])
    settings = {"samples": samples, "mask_token_id": MASK, "batch_size": samples}
    drawn = [log_likelihood(TOYS["wrong"], prompt_ids, target_ids, seed=seed, **settings).mean for seed in range(1500)]
    means = torch.tensor(drawn)
    assert abs(float(means.mean()) - exact(TOYS["wrong"], *TARGETS[0])) < 4 * float(means.std()) / 1500**0.5


@pytest.mark.parametrize(("prompt", "target"), TARGETS)
def test_a_wrong_denoiser_gives_a_lower_bound(prompt, target):
    logs = order_log_probs(TOYS["wrong"], torch.tensor(prompt + target), len(prompt))
    likelihood = float(logs.logsumexp(0)) - math.log(len(logs))  # of the mixture over orders
    assert exact(TOYS["wrong"], prompt, target) < likelihood - 0.01
    prompt_ids, target_ids, _ = split(prompt, target)
    estimate = log_likelihood(TOYS["wrong"], prompt_ids, target_ids, samples=4000, mask_token_id=MASK, batch_size=4000)
    assert estimate.mean < likelihood


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("schedule_name", NOISE_SCHEDULES.names())
def test_weighted_masked_cross_entropy_integrates_to_the_bound(name: str, schedule_name: str):
    """The training loss: over all masks by enumeration, over t by the midpoint rule."""
    schedule = NOISE_SCHEDULES.get(schedule_name)()
    *_, x0 = split(*TARGETS[0])
    is_masked = subsets(0)
    x0_BL = x0.expand(is_masked.shape)
    sums = masked_nll_sums(TOYS[name], x0_BL.masked_fill(is_masked, MASK), x0_BL, is_masked)
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    p, count = mask_prob(schedule, t)[:, None], is_masked.sum(1)
    chance = p**count * (1 - p) ** (LENGTH - count)
    loss = (elbo_weight(schedule, t) * (chance * sums).sum(1)).mean()
    assert float(loss) == pytest.approx(-exact(TOYS[name], *TARGETS[0]), rel=1e-6)


@pytest.mark.parametrize("schedule_name", NOISE_SCHEDULES.names())
def test_the_training_loss_is_unbiased(schedule_name: str):
    schedule, samples = NOISE_SCHEDULES.get(schedule_name)(), 20_000
    *_, x0 = split(*TARGETS[0])
    visit_S = torch.arange(samples)
    t_S = low_discrepancy(visit_S, seed=0, epsilon=1e-3)
    sample_BL, may_BL = visit_S[:, None].expand(-1, LENGTH), torch.ones(samples, LENGTH, dtype=torch.bool)
    keys = SampleKeys(visit_S, visit_S, torch.zeros_like(visit_S))
    is_masked = draw_mask(sample_BL, may_BL, mask_prob(schedule, t_S), keys=keys, seed=0)
    x0_BL = x0.expand(is_masked.shape)
    sums = masked_nll_sums(TOYS["wrong"], x0_BL.masked_fill(is_masked, MASK), x0_BL, is_masked)
    losses = elbo_weight(schedule, t_S) * sums
    epsilon_bias = 0.01 * abs(exact(TOYS["wrong"], *TARGETS[0]))
    error = 4 * float(losses.std()) / samples**0.5 + epsilon_bias
    assert abs(float(losses.mean()) + exact(TOYS["wrong"], *TARGETS[0])) < error


class Chain:
    """The exact denoiser of a sticky Markov chain: a token depends on the nearest given tokens on either side."""

    mask_token_id, stay = 3, 0.9

    @cached_property
    def powers(self) -> Tensor:
        step = torch.full((3, 3), (1 - self.stay) / 2, dtype=torch.float64)
        step.fill_diagonal_(self.stay)
        return torch.stack([torch.linalg.matrix_power(step, n) for n in range(200)])

    def draw(self, length: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        moves = (torch.rand(length, generator=generator) > self.stay) * torch.randint(
            1, 3, (length,), generator=generator
        )
        return moves.cumsum(0) % 3

    def log_prob(self, x0: Tensor) -> float:
        return math.log(1 / 3) + float(self.powers[1][x0[:-1], x0[1:]].log().sum())

    def __call__(self, tokens_BL, *, logits_at=None, targets=None, **_) -> DenoiserOutput:
        left, right = self._side(tokens_BL), self._side(tokens_BL.flip(1)).flip(1)
        logits = (left * right).log().reshape(-1, 3)[logits_at]
        return DenoiserOutput(nll=F.cross_entropy(logits, targets, reduction="none"))

    def _side(self, tokens_BL: Tensor) -> Tensor:
        """Probability of each value at each place given the nearest token to its left (the chain is reversible)."""
        index_BL = torch.arange(tokens_BL.shape[1]).expand_as(tokens_BL)
        last_BL = torch.where(tokens_BL == self.mask_token_id, -1, index_BL).cummax(1).values.roll(1, 1)
        last_BL[:, 0] = -1
        token_BL = tokens_BL.gather(1, last_BL.clamp(min=0))
        known = self.powers[(index_BL - last_BL).clamp(max=199), token_BL.clamp(max=2)]
        return torch.where((last_BL < 0)[:, :, None], torch.full((3,), 1 / 3, dtype=torch.float64), known)


def test_the_chain_is_exact():
    chain, x0 = Chain(), Chain().draw(24)
    for method in ("exact_count", "bernoulli"):
        estimate = log_likelihood(
            chain, x0[:0], x0, samples=4000, mask_token_id=3, seed=0, batch_size=1000, method=method
        )
        assert abs(estimate.mean - chain.log_prob(x0)) < 4 * estimate.stderr
    given = log_likelihood(chain, x0[:10], x0[10:], samples=4000, mask_token_id=3, seed=0, batch_size=1000)
    assert abs(given.mean - chain.log_prob(x0) + chain.log_prob(x0[:10])) < 4 * given.stderr


def test_spreading_t_lowers_the_variance_of_the_loss():
    """32 samples a batch; the noise of masks is common to both, what differs is where the t lie."""
    length, samples, batches = 128, 32, 120
    chain, x0 = Chain(), Chain().draw(length)
    variance = {}
    for draw in (iid, low_discrepancy):
        visit_S = torch.arange(samples * batches)
        t_S = draw(visit_S, seed=0, epsilon=1e-3)
        keys = SampleKeys(visit_S, visit_S, torch.zeros_like(visit_S))
        sample_BL, may_BL = visit_S[:, None].expand(-1, length), torch.ones(len(visit_S), length, dtype=torch.bool)
        is_masked = draw_mask(sample_BL, may_BL, mask_prob(Linear(), t_S), keys=keys, seed=0)
        x0_BL = x0.expand(is_masked.shape)
        sums = masked_nll_sums(chain, x0_BL.masked_fill(is_masked, 3), x0_BL, is_masked)
        losses = (elbo_weight(Linear(), t_S) * sums / length).view(batches, samples).mean(1)
        assert float(losses.mean()) == pytest.approx(-chain.log_prob(x0) / length, rel=0.05)
        variance[draw.__name__] = float(losses.var())
    ratio = variance["iid"] / variance["low_discrepancy"]
    print(
        f"\nvariance of the batch loss: iid {variance['iid']:.2e}, low discrepancy "
        f"{variance['low_discrepancy']:.2e}, {ratio:.1f} times less"
    )
    assert ratio > 1.5


def test_exact_counts_have_less_variance_than_bernoulli_and_errors_are_honest():
    length, seeds = 64, 60
    chain, x0 = Chain(), Chain().draw(length)
    spread = {}
    for method in ("exact_count", "bernoulli"):
        settings = {"samples": 48, "mask_token_id": 3, "batch_size": 48, "method": method}
        estimates = [log_likelihood(chain, x0[:0], x0, seed=seed, **settings) for seed in range(seeds)]
        spread[method] = float(torch.tensor([estimate.mean for estimate in estimates]).std())
        claimed = sum(estimate.stderr for estimate in estimates) / seeds
        assert 0.6 < claimed / spread[method] < 1.7
    print(f"\nstandard deviation of the log-likelihood: {spread}")
    assert spread["exact_count"] < spread["bernoulli"]


@pytest.mark.parametrize("method", ["exact_count", "bernoulli"])
def test_the_error_leaves_out_what_stratification_removes(method: str):
    """A loss that depends on how many tokens are masked and on nothing else: spread over levels costs nothing."""
    length, samples = 1000, 100

    def steep(tokens_BL, *, logits_at, targets, **_):
        share = (tokens_BL == MASK).double().mean(1)
        return DenoiserOutput(nll=share[logits_at // length])

    ids = torch.zeros(length, dtype=torch.long)
    found = log_likelihood(steep, ids[:0], ids, samples=samples, mask_token_id=MASK, method=method)
    # A sample with a share s masked gives -1000 s nats; s is uniform.
    assert found.mean == pytest.approx(-500, rel=0.02)
    independent = 1000 / 12**0.5 / samples**0.5
    assert found.stderr < independent / 8


def test_the_estimate_does_not_depend_on_the_batch_size_and_repeats():
    prompt_ids, target_ids, _ = split(*TARGETS[1])
    settings = {"samples": 30, "mask_token_id": MASK, "enumerates": False}
    whole = log_likelihood(TOYS["true"], prompt_ids, target_ids, batch_size=30, seed=4, **settings)
    for size in (1, 7, 64):
        assert log_likelihood(TOYS["true"], prompt_ids, target_ids, batch_size=size, seed=4, **settings) == whole
    assert log_likelihood(TOYS["true"], prompt_ids, target_ids, batch_size=30, seed=5, **settings) != whole


def test_guidance_follows_the_formula_at_one_mask():
    toy, scale = TOYS["wrong"], 1.5
    x0 = torch.tensor([[1, 2, 0, 1]])
    is_masked = torch.tensor([[False, False, True, False]])
    prompt = torch.tensor([[True, True, False, False]])
    given = toy(torch.tensor([[1, 2, MASK, 1]]), logits_at=torch.tensor([2])).logits
    bare = toy(torch.tensor([[MASK, MASK, MASK, 1]]), logits_at=torch.tensor([2])).logits
    expected = -float((2.5 * given - 1.5 * bare).log_softmax(-1)[0, 0])
    guidance = Guidance(scale, prompt, MASK)
    found = masked_nll_sums(toy, x0.masked_fill(is_masked, MASK), x0, is_masked, guidance=guidance)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    plain = log_likelihood(toy, x0[0, :2], x0[0, 2:], samples=8, mask_token_id=MASK)
    assert log_likelihood(toy, x0[0, :2], x0[0, 2:], samples=8, mask_token_id=MASK, guidance_scale=scale) != plain


def test_the_head_runs_at_masked_positions_only_and_not_at_all_without_any():
    toy = wrong_denoiser()
    x0 = torch.tensor([[1, 2, 0, 1]])
    assert masked_nll_sums(toy, x0, x0, torch.zeros(1, 4, dtype=torch.bool)).tolist() == [0.0]
    assert toy.fed == 0
    log_likelihood(toy, x0[0, :2], x0[0, 2:], samples=10, mask_token_id=MASK, batch_size=4, enumerates=False)
    assert toy.fed == 3  # of two tokens there are three masks: equal rows are fed once


def test_an_empty_target_is_certain():
    estimate = log_likelihood(TOYS["true"], torch.tensor([1]), torch.tensor([], dtype=torch.long), mask_token_id=MASK)
    assert (estimate.mean, estimate.stderr) == (0.0, 0.0)


def test_one_sample_has_no_error():
    prompt_ids, target_ids, _ = split(*TARGETS[0])
    assert math.isnan(log_likelihood(TOYS["true"], prompt_ids, target_ids, mask_token_id=MASK, samples=1).stderr)


@pytest.mark.parametrize("name", TOYS)
def test_exactly_one_target_is_greedy(name: str):
    targets = list(itertools.product(range(VOCAB), repeat=LENGTH - 1))
    verdicts = dict(GreedyWriting(MASK, batch_size=5).many(TOYS[name], [([2], target) for target in targets]))
    found = [target for index, target in enumerate(targets) if verdicts[index]]
    assert len(found) == 1
    # The most confident token of the first step is part of it.
    logits = TOYS[name](torch.tensor([[2, MASK, MASK, MASK]]), logits_at=torch.arange(1, 4)).logits.softmax(-1)
    place, token = divmod(int(logits.argmax()), VOCAB)
    assert found[0][place] == token


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        ({"method": "exactcount"}, 'Did you mean "exact_count"'),
        ({"samples": 0}, "samples of a likelihood estimate is 0"),
        ({"batch_size": -1}, "batch_size of a likelihood estimate is -1"),
    ],
)
def test_mistakes_are_named(settings: dict, phrase: str):
    with pytest.raises(ConfigError, match=phrase):
        LikelihoodEstimator(mask_token_id=MASK, **settings)
