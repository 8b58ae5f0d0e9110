"""The standard error of a bound over given rows: what evaluation's own noise leaves open.

Left to chance are the tokens that each mask holds, and the times. What is needed to reckon both is summed sample by
sample beside the bound, so that a batch is forgotten once it is scored. Networks and ids are unknown here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from unmask.diffusion.timesteps import counts_at, of_copies
from unmask.objectives.views import FEWER, Groups, View, places
from unmask.types import Batch

_FACTS = ("tokens", "groups", "weight", "deep", "alone", "laid", "nll", "spread", "spread_of")
# tokens of a sample that are compared between its copies
_PROBES = 16
# what to believe of two masks' values of one token before any are seen, and after how many it counts half
_LIKENESS, _BELIEF = 0.6, 8
_TIMES = 32


@dataclass(frozen=True)
class Chance:
    """What a batch leaves to chance, known before the forward. k of a group's n tokens are masked, weighed by w.

    Attributes:
        group: int64 `[n]`; of each masked token.
        probe: int64 `[n]`; number of those few tokens that are remembered one by one, -1 for others.
        count_G: float32; k. weighed_G: float32; w w k of those in which tokens can be compared. sample_G: int64.
        facts_SF: float32; of each sample the tokens, the groups, and over its groups the sums of w k, of w k k / n,
            and of what multiplies the variance of a token's cross-entropy where none knows of another mask, and where
            a token costs the same under all of them.
    """

    group: Int[Tensor, " n"]
    probe: Int[Tensor, " n"]
    count_G: Float[Tensor, " G"]
    weighed_G: Float[Tensor, " G"]
    sample_G: Int[Tensor, " G"]
    facts_SF: Float[Tensor, "S F"]

    @staticmethod
    def of(
        batch: Batch, groups: Groups, view: View, group: Int[Tensor, " n"], place: Int[Tensor, " n"]
    ) -> Chance | None:
        """That of one noisy copy, given group and flat place of its masked tokens; None for the noise of training."""
        if view.laid_G is None:
            return None
        size_G, weight_G = groups.size_G.float(), view.weight_G
        count_G = torch.bincount(group, minlength=len(size_G)).float()
        full_G, share_G = weight_G * count_G, count_G / size_G
        # the other masks that a token may be in: with none, what is left is a sample of k out of n
        others_G = (size_G.lgamma() - count_G.lgamma() - (size_G - count_G + 1).lgamma()).exp().round()
        alone_G = weight_G * full_G * (1 - share_G / others_G)
        facts_GF = torch.stack([size_G, torch.ones_like(size_G), full_G, full_G * share_G, alone_G, view.laid_G], dim=1)
        facts_SF = torch.zeros(len(batch.keys.row_S), facts_GF.shape[1]).index_add(0, groups.sample_G, facts_GF)
        weighed_G = torch.where(count_G > 1, weight_G * full_G, 0)
        return Chance(group, _probes(batch)[place], count_G, weighed_G, groups.sample_G, facts_SF)

    def evidence(self, nll: Float[Tensor, " n"], nll_S: Float[Tensor, " S"]) -> Float[Tensor, "S E"]:
        """What `bound_error` has to know of each sample, float32, given the masked tokens' cross-entropies, in nats."""
        nll, nll_S = nll.float(), nll_S.float()
        none_G, none_S = torch.zeros_like(self.count_G), torch.zeros_like(nll_S)
        off = nll - (none_G.index_add(0, self.group, nll) / self.count_G.clamp(min=1))[self.group]
        variance_G = none_G.index_add(0, self.group, off.square()) / (self.count_G - 1).clamp(min=1)
        spread_S = none_S.index_add(0, self.sample_G, self.weighed_G * variance_G)
        spread_of_S = none_S.index_add(0, self.sample_G, self.weighed_G)
        usual_G = (variance_G * (1 - 1 / self.count_G.clamp(min=1))).sqrt()
        # the last one is for all that are not remembered, which are numbered -1
        probes = torch.full((_PROBES * len(nll_S) + 1,), math.nan, device=nll.device)
        probes[self.probe] = torch.where(usual_G > 0, 1 / usual_G, math.nan)[self.group] * off
        sums_SF = torch.stack([nll_S, spread_S, spread_of_S], dim=1)
        return torch.cat([self.facts_SF, sums_SF, probes[:-1].view(-1, _PROBES)], dim=1)


def _probes(batch: Batch) -> Int[Tensor, " BL"]:
    """Numbers of tokens at even distances among those of a sample that may be noised; -1 for all others."""
    at = (batch.may_noise_BL & (batch.sample_BL >= 0)).flatten().nonzero().squeeze(1)
    sample = batch.sample_BL.flatten()[at]
    place, count = places(sample)
    number = place * _PROBES // count
    is_first = (place == 0) | (number != (place - 1).clamp(min=0) * _PROBES // count)
    probe = torch.full((batch.x0_BL.numel(),), -1)
    probe[at] = torch.where(is_first, sample * _PROBES + number, -1)
    return probe


def bound_error(row_S: Int[Tensor, " S"], evidence_SE: Float[Tensor, "S E"]) -> float:
    """Standard error, nats per token, of the mean bound over given rows, under `AbsorbingNoise.copies`.

    No unbiased one exists, since each row was scored at one draw of its times and its tokens. What is reckoned:

    Tokens: those of one mask spread around their mean, of which a sample of k out of n leaves a known part. Copies that
    lie end to end miss no token, which helps as far as a token costs the same under all masks. That is seen from tokens
    that two copies mask, as the square of their correlation. One or two copies never mask a token twice; then the
    square is taken for 0.36, and the error is up to two fifths too large for a network that ignores its context. Where
    a row's tokens all gain from the same visible ones, which no single mask shows, it is up to a third too small.

    Times: a straight line of the loss over the share of masked tokens and, from three rows on, what sets rows apart
    from it beyond the spread of their tokens, say how the bound moves with its times; they are drawn anew and again.

    Args:
        row_S: row of each sample; every row has equally many. evidence_SE: see `Chance.evidence`; without noisable
            tokens left out.

    Returns:
        0 where nothing is left to chance; nan for a single mask, and where no mask holds two tokens.
    """
    some_S = evidence_SE[:, 0] > 0
    row_S, evidence_SE = row_S[some_S].long(), evidence_SE[some_S].double()
    facts = _named(evidence_SE)
    if facts["groups"].sum() < 2 or (facts["alone"].any() and not facts["spread_of"].any()):
        return math.nan
    row_R, of_row_S = map(torch.tensor, np.unique(row_S.numpy(), return_inverse=True))
    sums_RE = torch.zeros(len(row_R), evidence_SE.shape[1], dtype=torch.float64).index_add(0, of_row_S, evidence_SE)
    rows, copies = _named(sums_RE), len(row_S) // len(row_R)
    shared = _shared(evidence_SE[:, len(_FACTS) :], of_row_S, len(row_R))
    spread = facts["spread"].sum() / facts["spread_of"].sum().clamp(min=1e-12)
    by_tokens_R = spread * ((1 - shared) * rows["alone"] + shared * rows["laid"])
    by_times = _by_times(row_R, copies, _Line.of(facts, spread), rows, by_tokens_R)
    return math.sqrt(float(by_tokens_R.sum() + by_times)) / float(facts["tokens"].sum())


def _named(evidence_SE: Float64[Tensor, "S E"]) -> dict[str, Tensor]:
    return {name: evidence_SE[:, place] for place, name in enumerate(_FACTS)}


def _shared(probes_SP: Float64[Tensor, "S P"], of_row_S: Int[Tensor, " S"], rows: int) -> float:
    """The share of a token's variance that another copy's mask explains."""
    seen_SP, value_SP = (~probes_SP.isnan()).double(), probes_SP.nan_to_num()
    many = torch.stack([seen_SP, value_SP, value_SP.square()])
    seen_RP, value_RP, square_RP = many.new_zeros(3, rows, many.shape[2]).index_add(1, of_row_S, many)
    pairs, products = (seen_RP * (seen_RP - 1)).sum() / 2, (value_RP.square() - square_RP).sum() / 2
    return float(((_LIKENESS * _BELIEF + products) / (_BELIEF + pairs)).clamp(0, 1)) ** 2


@dataclass(frozen=True)
class _Line:
    """The mean cross-entropy of masked tokens as a straight line over the share that is masked: nats."""

    start: float
    slope: float

    @staticmethod
    def of(facts: dict[str, Tensor], spread: Tensor) -> _Line:
        """By least squares; a slope as large as the mean is not surprising."""
        error_S = (spread * facts["alone"]).clamp(min=1e-9).sqrt()
        mean = float(facts["nll"].sum() / facts["weight"].sum())
        weight_S, deep_S, nll_S = (facts[name] / error_S for name in ("weight", "deep", "nll"))
        product, below = (weight_S * deep_S).sum(), weight_S.square().sum()
        slope = (deep_S * nll_S).sum() - product * (weight_S * nll_S).sum() / below
        slope = slope / (deep_S.square().sum() - product.square() / below + 1 / max(mean * mean, 1e-12))
        return _Line(float(((weight_S * nll_S).sum() - slope * product) / below), float(slope))

    def __call__(self, weight: Tensor, deep: Tensor) -> Tensor:
        return self.start * weight + self.slope * deep


def _by_times(
    row_R: Int[Tensor, " R"], copies: int, line: _Line, rows: dict[str, Tensor], by_tokens_R: Float64[Tensor, " R"]
) -> Tensor:
    """The variance, in squared nats, that times leave to the sum over all rows and copies."""
    weight_TR, deep_TR = _at_other_times(row_R, copies, rows)
    moved_TR = line(weight_TR, deep_TR)
    if len(row_R) < 3:
        return moved_TR.sum(1).var()
    off_R, weight_R = rows["nll"] - line(rows["weight"], rows["deep"]), rows["weight"]
    square = off_R.square().sum() * len(row_R) / (len(row_R) - 2) - by_tokens_R.sum()
    between = (square / weight_R.square().sum()).clamp(min=0)
    # of a row's distance from the line as much is believed as tokens leave, the rest is as likely up as down
    own_R = between * weight_R.square()
    believed_R = own_R / (own_R + by_tokens_R).clamp(min=1e-12)
    moved_TR = moved_TR + believed_R * off_R / weight_R * weight_TR
    return moved_TR.sum(1).var() + (between * (1 - believed_R) * weight_TR.var(0)).sum()


def _at_other_times(
    row_R: Int[Tensor, " R"], copies: int, rows: dict[str, Tensor]
) -> tuple[Float64[Tensor, "T R"], Float64[Tensor, "T R"]]:
    """The sums that `Chance` calls w k and w k k / n, of each row's copies, at other times; its groups taken even."""
    groups_R = (rows["groups"] / copies).round().long()
    of_row_G = torch.arange(len(row_R)).repeat_interleave(groups_R)
    place_G, groups_G = places(of_row_G)
    size_G = (rows["tokens"] / copies / groups_R)[of_row_G].round().long().clamp(min=1)
    found_T: list[Tensor] = []
    for seed in range(_TIMES):
        time_CG = of_copies(row_R[of_row_G], place_G, groups_G, copies=copies, seed=seed)
        count_CG, ratio_CG = counts_at(time_CG, size_G, fewer=FEWER)
        full_CG = ratio_CG * size_G
        both_2G = torch.stack([full_CG.sum(0), (full_CG * count_CG / size_G).sum(0)])
        found_T.append(both_2G.new_zeros(2, len(row_R)).index_add(1, of_row_G, both_2G))
    weight_TR, deep_TR = torch.stack(found_T, dim=1)
    return weight_TR, deep_TR
