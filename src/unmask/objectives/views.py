"""Noisy views of a batch: which tokens share a time, when each group is noised, which of its tokens are masked.

Everything is drawn on the CPU from the identity of the samples alone. Losses and networks are unknown here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.diffusion.noising import draw_mask, exact_count_groups, sample_uniforms
from unmask.diffusion.schedules import Linear, NoiseSchedule, mask_prob, time_at
from unmask.diffusion.timesteps import counts_at, of_copies, per_block
from unmask.diffusion.weights import complement_weight, elbo_weight
from unmask.types import Batch

Masking = Literal["bernoulli", "exact_count"]
# best on a trained model, four masks of a row laid end to end
FEWER = 1.75


@dataclass(frozen=True)
class Groups:
    """Tokens that share a time: those of a sample, or those of a block of one.

    Attributes:
        group_BL: int64; group of a position, -1 for none.
        sample_G: int64; sample of a group. place_G: which of its sample's groups it is. groups_G: how many these are.
        size_G: int64; positions of a group that may be noised.
    """

    group_BL: Int[Tensor, "B L"]
    sample_G: Int[Tensor, " G"]
    place_G: Int[Tensor, " G"]
    groups_G: Int[Tensor, " G"]
    size_G: Int[Tensor, " G"]

    @staticmethod
    def of_samples(batch: Batch) -> Groups:
        """Each sample is one group."""
        number_S = torch.arange(len(batch.keys.row_S))
        one_S, place_S = torch.ones_like(number_S), torch.zeros_like(number_S)
        return Groups(batch.sample_BL, number_S, place_S, one_S, members(batch.sample_BL, batch.may_noise_BL, number_S))


def members(group_BL: Int[Tensor, "B L"], chosen_BL: Bool[Tensor, "B L"], like_G: Tensor) -> Int[Tensor, " G"]:
    """How many of the chosen positions each group has; there are as many groups as `like_G` is long."""
    return torch.bincount(group_BL[chosen_BL & (group_BL >= 0)], minlength=len(like_G))


@dataclass(frozen=True)
class View:
    """One noisy copy: what is masked, and with which weight a masked token of each group is counted in the bound.

    `t_G`, float32, is the time that the groups were noised at. `rate_G`, float32, is how much more often a group is to
    be counted than its noise is drawn; None: as often. `laid_G`, float32, where masks lie end to end: its part
    of the variance of the weighed sum over a row's copies, if a token costs the same under all masks, with variance 1.
    """

    is_masked_BL: Bool[Tensor, "B L"]
    weight_G: Float[Tensor, " G"]
    t_G: Float[Tensor, " G"]
    rate_G: Float[Tensor, " G"] | None = None
    laid_G: Float[Tensor, " G"] | None = None


@dataclass(frozen=True)
class AbsorbingNoise:
    """How a batch is noised.

    Attributes:
        mask_token_id: the id that replaces a noised token.
        schedule: alpha(t).
        time_sampling: `low_discrepancy` or `iid`.
        time_epsilon: the smallest time where tokens are masked one by one, whose weight has a pole at 0.
        time_low, time_high: clipped noise: the smallest and the largest time. What is computed from part of the
            interval is no bound any more.
        masking: `bernoulli` masks each token of a group with probability 1 - alpha(t), `exact_count` a number of them
            that is uniform over 1..n for uniform 1 - alpha(t), which has less variance.
        views: noisy copies of each sample.
        complementary: each copy is followed by another, in which exactly its other tokens are masked (LLaDA2.0,
            arXiv 2512.15745).
        copies: 0: samples come as a run visits them. Otherwise each row of a fixed set is visited so many times, which
            `epoch_S` numbers, and all are noised together, for a bound of little variance: exact counts, stratified
            over copies and rows. `time_*`, `masking`, `views` and `complementary` have no say then.
        seed: of times and masks.
    """

    mask_token_id: int
    schedule: NoiseSchedule = field(default_factory=Linear)
    time_sampling: Literal["low_discrepancy", "iid"] = "low_discrepancy"
    time_epsilon: float = 1e-3
    time_low: float = 0.0
    time_high: float = 1.0
    masking: Masking = "bernoulli"
    views: int = 1
    complementary: bool = False
    copies: int = 0
    seed: int = 0

    def draw(self, batch: Batch, groups: Groups) -> list[View]:
        """All noisy copies of a batch."""
        if self.copies:
            return [self._of_fixed_rows(batch, groups)]
        visit_G = batch.keys.visit_S[groups.sample_G]
        times_VG = per_block(
            visit_G,
            groups.place_G,
            groups.groups_G,
            seed=self.seed,
            interval=self._interval(),
            views=self.views,
            sampling=self.time_sampling,
        )
        return [view for index, t_G in enumerate(times_VG) for view in self._copies(batch, groups, t_G, index)]

    def _interval(self) -> tuple[float, float]:
        low, high = self.time_low, self.time_high
        if self.masking == "exact_count":
            return low, high
        return max(low, self.time_epsilon), min(high, 1 - self.time_epsilon) if self.complementary else high

    def _copies(self, batch: Batch, groups: Groups, t_G: Float[Tensor, " G"], index: int) -> list[View]:
        """A copy at these times and, where there is one, its complement."""
        draw = self._counted if self.masking == "exact_count" else self._one_by_one
        view, other_G = draw(batch, groups, t_G, index)
        if not self.complementary:
            return [view]
        rest_BL = batch.may_noise_BL & (groups.group_BL >= 0) & ~view.is_masked_BL
        return [view, View(rest_BL, other_G, t_G)]

    def _one_by_one(
        self, batch: Batch, groups: Groups, t_G: Float[Tensor, " G"], index: int
    ) -> tuple[View, Float[Tensor, " G"]]:
        keys, prob_G = replace(batch.keys, view=index), mask_prob(self.schedule, t_G)
        is_masked_BL = draw_mask(
            batch.sample_BL, batch.may_noise_BL, prob_G, keys=keys, seed=self.seed, group_BL=groups.group_BL
        )
        view = View(is_masked_BL, elbo_weight(self.schedule, t_G).float(), t_G)
        return view, complement_weight(self.schedule, t_G).float()

    def _counted(
        self, batch: Batch, groups: Groups, t_G: Float[Tensor, " G"], index: int
    ) -> tuple[View, Float[Tensor, " G"]]:
        """k of n tokens, weighed by n / k and by how fast the mask probability moves: over uniform times that is 1 / k.

        With complements k may be 0, and each of the two counts takes one of n + 1 cells instead of n.
        """
        numbers_BL = sample_uniforms(batch.sample_BL, keys=replace(batch.keys, view=index), seed=self.seed)
        least, time_G = int(not self.complementary), t_G.double()
        cells_G = groups.size_G + 1 - least
        count_G = least + torch.minimum((mask_prob(self.schedule, time_G) * cells_G).long(), cells_G - 1).clamp(min=0)
        is_masked_BL = exact_count_groups(count_G, groups.group_BL, batch.may_noise_BL, numbers_BL)
        moved_G = -self.schedule.dalpha(time_G) * cells_G
        left_G = (groups.size_G - count_G).clamp(min=1)
        return View(is_masked_BL, (moved_G / count_G.clamp(min=1)).float(), t_G), (moved_G / left_G).float()

    def _of_fixed_rows(self, batch: Batch, groups: Groups) -> View:
        """The masks of a row's copies lie end to end on a circle of its tokens, so that no token is seen much more.

        Where few are masked each weighs most: the mask of the most is laid before that of the fewest, so that what
        overlaps is light.
        The bound is that of every schedule; losses with other weights are, in the mean, those of this one.
        """
        keys, size_G = batch.keys, groups.size_G.clamp(min=1)
        row_G, copy_G = keys.row_S[groups.sample_G], keys.epoch_S[groups.sample_G]
        time_CG = of_copies(row_G, groups.place_G, groups.groups_G, copies=self.copies, seed=self.seed)
        count_CG, ratio_CG = counts_at(time_CG, size_G, fewer=FEWER)
        first_CG = count_CG.cumsum(0) - count_CG
        first_CG[-1] = -count_CG[-1]
        time_G, count_G, ratio_G, first_G = (
            values_CG.gather(0, copy_G[None])[0] for values_CG in (time_CG, count_CG, ratio_CG, first_CG)
        )
        numbers_BL = sample_uniforms(
            batch.sample_BL, keys=replace(keys, epoch_S=torch.zeros_like(keys.epoch_S)), seed=self.seed
        )
        is_masked_BL = exact_count_groups(count_G, groups.group_BL, batch.may_noise_BL, numbers_BL, first_G)
        until_G, since_G = (time_at(self.schedule, (count_G - less) / size_G.double()) for less in (0, 1))
        rate_G = ratio_G * size_G * (until_G - since_G)
        laid_G = _laid(count_CG, first_CG, ratio_CG * size_G / count_CG, size_G, copy_G)
        return View(is_masked_BL, (ratio_G * size_G / count_G).float(), time_G.float(), rate_G.float(), laid_G.float())


def _laid(
    count_CG: Int[Tensor, "C G"],
    first_CG: Int[Tensor, "C G"],
    weight_CG: Float[Tensor, "C G"],
    size_G: Int[Tensor, " G"],
    copy_G: Int[Tensor, " G"],
) -> Float[Tensor, " G"]:
    """`View.laid_G`: w times the sum over all copies of w' (tokens of both - k k' / n)."""
    count_G, first_G, weight_G = (values_CG.gather(0, copy_G[None])[0] for values_CG in (count_CG, first_CG, weight_CG))
    ahead_CG = (first_CG - first_G) % size_G
    both_CG = torch.minimum(count_G - ahead_CG, count_CG).clamp(min=0)
    both_CG = both_CG + torch.minimum(count_G, ahead_CG + count_CG - size_G).clamp(min=0)
    return weight_G * (weight_CG * (both_CG - count_G * count_CG / size_G)).sum(0)


def places(of_n: Int[Tensor, " n"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Which of those of its own number each is, in order, and how many these are."""
    count_S = torch.bincount(of_n)
    by_number = of_n.argsort(stable=True)
    place_n = torch.empty_like(of_n)
    place_n[by_number] = torch.arange(len(of_n)) - (count_S.cumsum(0) - count_S)[of_n[by_number]]
    return place_n, count_S[of_n]
