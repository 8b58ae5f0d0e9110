"""Which masks a target is scored under, and its likelihood from the cross-entropies under them.

Numbers only: no denoiser, no rows, no prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from unmask.diffusion.keys import Purpose, uniforms
from unmask.diffusion.noising import exact_count_mask
from unmask.diffusion.schedules import Linear
from unmask.diffusion.timesteps import counts_at, in_turns, low_discrepancy
from unmask.diffusion.weights import elbo_weight
from unmask.objectives.profile import Profile, profile_of

# beyond 2 ** 20 masks nobody asks for so many samples
_LONGEST_ENUMERATED = 20
# best on trained models, among independent masks
_FEWER = 1.5


@dataclass(frozen=True)
class LikelihoodEstimate:
    """An estimate of a log-likelihood.

    Attributes:
        mean: the estimate, nats.
        stderr: its standard error, nats, from differences of samples with neighbouring noise levels; 0 where nothing
            was drawn; nan for one sample.
        samples: noised copies that it is a mean over.
        profile: where the nats lie, where that was asked for.
    """

    mean: float
    stderr: float
    samples: int
    profile: Profile | None = None


@dataclass(frozen=True)
class TargetMasks:
    """The masks of a target of n tokens, each once, and how they count.

    Attributes:
        is_masked_Un: bool; U different masks.
        mask_S: int64; the mask of each of the S samples.
        share_S: float64; what a sample's sum of cross-entropies is multiplied by, so that the bound is the sum over S.
        level_S: float64; where samples lie between the least noise and the most.
        is_exact: every mask that there is counts by its probability.
    """

    is_masked_Un: Bool[Tensor, "U n"]
    mask_S: Int64[Tensor, " S"]
    share_S: Float64[Tensor, " S"]
    level_S: Float64[Tensor, " S"]
    is_exact: bool

    def estimate(self, sums_U: Float64[Tensor, " U"]) -> LikelihoodEstimate:
        """The log-likelihood, given the sums of cross-entropies over the masked positions of each mask, in nats."""
        samples = len(self.mask_S)
        values_S = -self.share_S * sums_U[self.mask_S]
        error = 0.0 if self.is_exact else stratified_error(values_S * samples, self.level_S)
        return LikelihoodEstimate(float(values_S.sum()), error, samples)

    def estimate_by_tokens(
        self, nll_n: Float64[Tensor, " n"], mask_n: Int64[Tensor, " n"], position_n: Int64[Tensor, " n"]
    ) -> LikelihoodEstimate:
        """The same with less variance: the mean of `values`."""
        values_S = self.values(nll_n, mask_n, position_n)
        return LikelihoodEstimate(float(values_S.mean()), stratified_error(values_S, self.level_S), len(self.mask_S))

    def values(
        self, nll_n: Float64[Tensor, " n"], mask_n: Int64[Tensor, " n"], position_n: Int64[Tensor, " n"]
    ) -> Float64[Tensor, " S"]:
        """What each sample says of the log-likelihood, given the cross-entropy of each masked token, its mask, its
        place in the target.

        Of a token's cross-entropy only what differs from the other samples' mean at its place is multiplied; the means
        are added for all places. What is added as much too often, or too seldom, as counts like the sample's were drawn
        is taken back, so that a cross-entropy which is the same everywhere is found exactly (from three samples on).
        What a sample is corrected by comes from others, whose masks and counts are independent of its own, so that the
        estimate stays unbiased (a difference estimator with control variates). For exact counts.
        """
        is_masked_Sn = self.is_masked_Un[self.mask_S]
        nll_Un = torch.zeros(self.is_masked_Un.shape, dtype=torch.float64).index_put((mask_n, position_n), nll_n)
        nll_Sn = nll_Un[self.mask_S]
        others_n, times_n = nll_Sn.sum(0) - nll_Sn, is_masked_Sn.sum(0) - is_masked_Sn.long()
        overall_S1 = others_n.sum(1, keepdim=True) / times_n.sum(1, keepdim=True).clamp(min=1)
        usual_Sn = torch.where(times_n > 0, others_n / times_n.clamp(min=1), overall_S1)
        differs_S = ((nll_Sn - usual_Sn) * is_masked_Sn).sum(1)
        weight_S = self.share_S * len(self.mask_S)
        # how much rarer than others its count is drawn, and on average those of its share of all levels
        ratio_S = weight_S * is_masked_Sn.double().mean(1)
        expected_S = _expected_ratios(len(ratio_S), is_masked_Sn.shape[1])
        elsewhere_S = _elsewhere(nll_Sn, is_masked_Sn)
        # the last term is zero in all, and leaves a constant no spread
        return (
            elsewhere_S * (ratio_S - expected_S)
            - (weight_S * differs_S + ratio_S * usual_Sn.sum(1))
            + elsewhere_S.mean() * (expected_S - 1)
        )

    def some(self, chosen_m: Int64[Tensor, " m"]) -> TargetMasks:
        """The same with these samples alone, which are to be spread over all levels as evenly."""
        share_m = self.share_S[chosen_m] * len(self.mask_S) / len(chosen_m)
        return replace(self, mask_S=self.mask_S[chosen_m], share_S=share_m, level_S=self.level_S[chosen_m])

    def profile(
        self, nll_n: Float[Tensor, " n"], mask_n: Int64[Tensor, " n"], position_n: Int64[Tensor, " n"]
    ) -> Profile:
        """Where the nats lie, given the cross-entropy of each masked token, its mask, and its place in the target."""
        length = self.is_masked_Un.shape[1]
        masked_n, maskable_n = self.is_masked_Un.sum(1)[mask_n], torch.full_like(mask_n, length)
        return profile_of(nll_n, self.share_U[mask_n], masked_n, maskable_n, position_n, length)

    @property
    def share_U(self) -> Float64[Tensor, " U"]:
        """What the sum under each mask is multiplied by."""
        return torch.zeros(len(self.is_masked_Un), dtype=torch.float64).index_add(0, self.mask_S, self.share_S)


def total(parts: list[LikelihoodEstimate]) -> LikelihoodEstimate:
    """The estimate of a sum of log-likelihoods whose noise is independent."""
    error = math.sqrt(sum(part.stderr**2 for part in parts))
    return LikelihoodEstimate(sum(part.mean for part in parts), error, max((part.samples for part in parts), default=0))


@lru_cache(maxsize=256)
def target_masks(
    length: int, *, samples: int, seed: int, method: str = "exact_count", enumerates: bool = True, block: int = 0
) -> TargetMasks:
    """The masks of a target of `length` tokens; the same for all targets of that length.

    Args:
        length: at least 1.
        samples: how many copies may be scored. Where there are no more masks than that, all of them are.
        seed: of the noise.
        method: see `LikelihoodEstimator`.
        enumerates: False: draw, however few masks there are.
        block: which block of its target this is; its noise is independent of the others'.
    """
    if method == "exact_count" and enumerates and is_enumerable(length, samples):
        return _all_masks(length)
    numbers = [uniforms(length, seed=seed, purpose=Purpose.SCORE, key=(s, 0, block)) for s in range(samples)]
    numbers_Sn = torch.stack(numbers)
    if method == "exact_count":
        # two neighbours at one place, other places for the next two: see `_elsewhere`
        place_P = uniforms(samples // 2 + 1, seed=seed, purpose=Purpose.SCORE, key=(0, 1, block))
        level_S = in_turns(torch.arange(samples), place_P[torch.arange(samples) // 2], samples)
        count_S, ratio_S = counts_at(level_S, torch.tensor(length), fewer=_FEWER)
        chosen_Sn = exact_count_mask(count_S, torch.ones_like(numbers_Sn, dtype=torch.bool), numbers_Sn)
        weight_S = ratio_S * length / count_S
    else:
        level_S = low_discrepancy(torch.arange(samples), seed=seed, epsilon=0.0).double()
        chosen_Sn = numbers_Sn < level_S[:, None]
        weight_S = elbo_weight(Linear(), level_S)
    is_masked_Un, mask_S = np.unique(chosen_Sn.numpy(), axis=0, return_inverse=True)
    return TargetMasks(
        torch.tensor(is_masked_Un),
        torch.tensor(mask_S.reshape(-1)),
        weight_S.double() / samples,
        level_S.double(),
        is_exact=False,
    )


def rounds(samples: int, *, least: int = 8) -> list[int]:
    """Numbers of samples that double up to all of them, from `least` on or, where that is odd, a higher one."""
    found = [samples]
    while found[0] % 2 == 0 and found[0] >= 2 * least:
        found.insert(0, found[0] // 2)
    return found


def first_samples(count: int, samples: int, seed: int) -> Int64[Tensor, " {count}"]:
    """Which samples a round begins with: all that earlier rounds had, one of each two or four or eight neighbours.

    Each is as likely, so that its level of noise is uniform over its share of all levels.

    Args:
        count: one of `rounds`. samples: all there are. seed: of the noise.
    """
    chosen = torch.arange(samples)
    while len(chosen) > count:
        is_second = uniforms(len(chosen) // 2, seed=seed, purpose=Purpose.SCORE, key=(len(chosen), 2, 0)) < 0.5
        chosen = torch.where(is_second, chosen[1::2], chosen[::2])
    return chosen


def is_enumerable(length: int, samples: int) -> bool:
    """Whether so many tokens have no more masks than samples."""
    return length <= _LONGEST_ENUMERATED and 2**length - 1 <= samples


def _all_masks(length: int) -> TargetMasks:
    """Every mask but the empty one: each count k has the same probability, and all masks of k tokens have."""
    number_U = torch.arange(1, 2**length)
    is_masked_Un = (number_U[:, None] >> torch.arange(length)) % 2 == 1
    level_U = is_masked_Un.sum(1)
    share_U = torch.tensor([1 / (k * math.comb(length, k)) for k in map(int, level_U)], dtype=torch.float64)
    return TargetMasks(is_masked_Un, number_U - 1, share_U, level_U.double(), is_exact=True)


def _expected_ratios(samples: int, length: int) -> Float64[Tensor, " {samples}"]:
    """The mean over each of as many equal shares of all levels of what `counts_at` calls a ratio; 1 on average."""
    level_E = torch.arange(samples + 1, dtype=torch.float64) / samples
    count_E, ratio_E = counts_at(level_E, torch.tensor(length), fewer=_FEWER)
    below_E = ((count_E - 1) / length) ** (1 / _FEWER)
    return ((count_E - 1) / length + ratio_E * (level_E - below_E)).diff() * samples


def _elsewhere(nll_Sn: Float64[Tensor, "S n"], is_masked_Sn: Bool[Tensor, "S n"]) -> Float64[Tensor, " S"]:
    """The mean cross-entropy of all places, as samples know it that share neither mask nor level with this one: nats.

    These are all but itself and its neighbour of an even and an odd number; 0 where there are none.
    """
    pair_S = torch.arange(len(nll_Sn)) // 2
    nll_Pn, times_Pn = (
        values_Sn.new_zeros(int(pair_S[-1]) + 1, nll_Sn.shape[1], dtype=torch.float64).index_add(0, pair_S, values_Sn)
        for values_Sn in (nll_Sn, is_masked_Sn.double())
    )
    others_Pn, times_Pn = nll_Pn.sum(0) - nll_Pn, times_Pn.sum(0) - times_Pn
    overall_P1 = others_Pn.sum(1, keepdim=True) / times_Pn.sum(1, keepdim=True).clamp(min=1)
    return torch.where(times_Pn > 0, others_Pn / times_Pn.clamp(min=1), overall_P1).sum(1)[pair_S]


def stratified_error(values_S: Float64[Tensor, " S"], level_S: Float64[Tensor, " S"]) -> float:
    """Standard error of the mean of samples of all levels of noise; nan for a single one.

    From how far each is off the line between its neighbours (the first and the last: off their neighbour), which holds
    the spread that stratification has not removed (Gasser, Sroka, Jennen-Steinmetz 1986, "Residual variance and
    residual pattern in nonlinear regression").
    """
    if len(values_S) < 2:
        return math.nan
    order_S = level_S.argsort(stable=True)
    value_S, level_S = values_S[order_S], level_S[order_S]
    whole = level_S[2:] - level_S[:-2]
    left = torch.where(whole > 0, (level_S[2:] - level_S[1:-1]) / whole.clamp(min=1e-12), 0.5)
    off = value_S[1:-1] - left * value_S[:-2] - (1 - left) * value_S[2:]
    ends = value_S.diff()[[0, -1]].square() / 2
    inside = off.square() / (1 + left.square() + (1 - left).square())
    return float(torch.cat([ends, inside]).sum()) ** 0.5 / len(value_S)
