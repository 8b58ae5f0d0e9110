"""Targets that are compared with each other, scored under more and more masks until their order is settled.

Knows no tasks: which log-likelihoods are compared, and what they are divided by, is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from unmask.objectives.asking import Pair, Questions
from unmask.objectives.estimators import LikelihoodEstimator
from unmask.objectives.target_masks import (
    LikelihoodEstimate,
    TargetMasks,
    first_samples,
    is_enumerable,
    rounds,
    stratified_error,
)
from unmask.types import Denoiser


@dataclass(frozen=True)
class Contest:
    """Pairs of prompt and target of which the likeliest target is looked for.

    Attributes:
        pairs: ids of prompt and target.
        sizes: for each comparison that is made, what the log-likelihood of each pair is divided by, above 0.
    """

    pairs: Sequence[Pair]
    sizes: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Settling:
    """Scores contests in rounds of 8, 16, 32, ... samples (of 100: 25, 50, 100), which hold those of the round before.

    A contest is over when in each comparison the best is ahead of every other by more than `errors` standard errors of
    their difference; at the latest after all samples, with the estimates that `how` gives. Samples of one number have
    the same level of noise, and in targets of one length the same mask, so that differences are less noisy than
    likelihoods.

    The error that is looked at is an estimate itself, from few samples in the first round, and is looked at several
    times: a lead by chance is taken for a settled one more often than a table of the normal distribution says.

    Attributes:
        how: all samples, seed, rows per forward, guidance; exact counts.
        errors: how many.
    """

    how: LikelihoodEstimator
    errors: float

    def many(
        self, denoiser: Denoiser, contests: Sequence[Contest], *, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[int, list[LikelihoodEstimate]]]:
        """Estimate log p(target | prompt) of all pairs of contests, whose rounds share forwards.

        Args:
            denoiser: without dropout, if results are to repeat.
            contests: to be settled.
            device: the denoiser's.

        Yields:
            Index of a contest and the estimates of its pairs, each once; up to rounding the same as alone.
        """
        left = {index: [_Scored.of(pair) for pair in contest.pairs] for index, contest in enumerate(contests)}
        for samples in rounds(self.how.samples):
            self._ask(denoiser, [scored for pairs in left.values() for scored in pairs], samples, device)
            for index, pairs in list(left.items()):
                found = [scored.found(self.how, samples) for scored in pairs]
                if samples == self.how.samples or self._is_settled(contests[index], found):
                    del left[index]
                    yield index, [one.estimate for one in found]

    def _ask(self, denoiser: Denoiser, pairs: list[_Scored], samples: int, device: torch.device | str) -> None:
        """Score what is new in this round."""
        how, asked = self.how, list[tuple[_Scored, bytes]]()
        questions = Questions(
            how.batch_size, device, guidance_scale=how.guidance_scale, mask_token_id=how.mask_token_id
        )
        for scored in pairs:
            for is_masked_n in scored.unknown(how, samples):
                at = scored.start + is_masked_n.nonzero()[:, 0]
                noised_L = scored.x0_L.index_fill(0, at, how.mask_token_id)
                questions.ask(noised_L, at, scored.x0_L[at], prompt=scored.start)
                asked.append((scored, _key(is_masked_n)))
        nll_n, slot_n, _ = questions.tokens(denoiser)
        bounds = torch.searchsorted(slot_n, torch.arange(len(asked) + 1))
        for (scored, key), start, end in zip(asked, bounds, bounds[1:], strict=False):
            scored.nll_of[key] = nll_n[start:end]

    def _is_settled(self, contest: Contest, found: list[_Found]) -> bool:
        for sizes in contest.sizes:
            scores = [one.values_S / size for one, size in zip(found, sizes, strict=True)]
            best = max(range(len(scores)), key=lambda index: float(scores[index].mean()))
            for rival in (index for index in range(len(scores)) if index != best):
                ahead_S, level_D = scores[best] - scores[rival], max(found[best].level_D, found[rival].level_D, key=len)
                error = stratified_error(ahead_S, level_D) if len(level_D) else 0.0
                if not float(ahead_S.mean()) > self.errors * error:
                    return False
        return True


@dataclass(frozen=True)
class _Found:
    """An estimate, and what it is the mean of: samples at D levels of noise, or one value where none were drawn."""

    estimate: LikelihoodEstimate
    values_S: Float64[Tensor, " S"]
    level_D: Float64[Tensor, " D"]


@dataclass
class _Scored:
    """A pair, and the cross-entropies of its masked tokens under each mask that was asked: float64 `[n]`, in order."""

    x0_L: Int64[Tensor, " L"]
    start: int
    nll_of: dict[bytes, Tensor] = field(default_factory=dict[bytes, Tensor])

    @staticmethod
    def of(pair: Pair) -> _Scored:
        return _Scored(torch.tensor([*pair[0], *pair[1]], dtype=torch.int64), len(pair[0]))

    def unknown(self, how: LikelihoodEstimator, samples: int) -> list[Tensor]:
        """The masks of a round that were not asked."""
        masks = self._masks(how, samples)
        every = [] if masks is None else list(masks.is_masked_Un[_used(masks)])
        return [is_masked_n for is_masked_n in every if _key(is_masked_n) not in self.nll_of]

    def found(self, how: LikelihoodEstimator, samples: int) -> _Found:
        """The estimate of a round."""
        masks, none = self._masks(how, samples), torch.zeros(0, dtype=torch.float64)
        if masks is None:
            return _Found(LikelihoodEstimate(0.0, 0.0, samples), torch.zeros(1, dtype=torch.float64), none)
        used_u = _used(masks)
        nll_n = torch.cat([self.nll_of[_key(is_masked_n)] for is_masked_n in masks.is_masked_Un[used_u]])
        number_n, position_n = masks.is_masked_Un[used_u].nonzero(as_tuple=True)
        mask_n = used_u[number_n]
        estimate = how.estimate(masks, nll_n, mask_n, position_n)
        if masks.is_exact:
            return _Found(estimate, torch.tensor([estimate.mean], dtype=torch.float64), none)
        return _Found(estimate, masks.values(nll_n, mask_n, position_n), masks.level_S)

    def _masks(self, how: LikelihoodEstimator, samples: int) -> TargetMasks | None:
        length = len(self.x0_L) - self.start
        if length == 0 or samples == how.samples or is_enumerable(length, samples):
            return replace(how, samples=samples).masks(length, 0)
        every = replace(how, enumerates=False).masks(length, 0)
        assert every is not None, "a target of some tokens has masks"
        return every.some(first_samples(samples, how.samples, how.seed))


def _used(masks: TargetMasks) -> Tensor:
    """int64 `[u]`; numbers of the masks that samples have."""
    return masks.mask_S.bincount().nonzero()[:, 0]


def _key(is_masked_n: Tensor) -> bytes:
    return is_masked_n.numpy().tobytes()
