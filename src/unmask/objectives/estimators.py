"""How likely a denoiser finds targets after their prompts, by Monte Carlo over masks, many at once.

Each estimate is of the evidence lower bound of log p(target | prompt), which is the log-likelihood itself for a
denoiser whose conditionals are those of one joint distribution. Tokenizers are unknown here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.errors import ConfigError, did_you_mean
from unmask.objectives.asking import Guidance, Pair, Questions, by_length, by_prompt, masked_nll_sums
from unmask.objectives.profile import Profile, profile_of
from unmask.objectives.target_masks import LikelihoodEstimate, TargetMasks, target_masks
from unmask.types import Denoiser

__all__ = [
    "METHODS",
    "Guidance",
    "LikelihoodEstimate",
    "LikelihoodEstimator",
    "Pair",
    "causal_log_likelihoods",
    "log_likelihood",
    "masked_nll_sums",
]

METHODS = ("exact_count", "bernoulli")
# forwards' worth of rows that are gathered, so that equal rows meet and rows of one length come together
_AHEAD = 16


@dataclass(frozen=True)
class LikelihoodEstimator:
    """How to estimate; calling it estimates.

    Attributes:
        mask_token_id: the checkpoint's mask token.
        samples: noised copies to score, at most: where a target has no more masks than that (2 ** n - 1 of n tokens),
            each is scored once, and the bound is exact.
        seed: fixes the noise; all targets of one length get the same, so that comparing them is less noisy.
        batch_size: copies per forward; the estimate does not depend on it.
        guidance_scale: classifier-free guidance; 0 is none. With it the result is a score, no likelihood.
        method: "exact_count" masks k of n tokens, k spread evenly over 1..n, and weighs by n / k (LLaDA's estimator,
            stratified over all samples). "bernoulli" masks each token with probability t, t of low discrepancy over
            (0, 1), and weighs by 1 / t. Both are unbiased for the bound; the first has less variance.
        enumerates: False: draw masks even where all could be scored.
        corrects: with exact counts, lower the variance by what the samples have in common at each place of the target;
            False: LLaDA's plain mean.
        own_masks: every target gets masks of its own, so that the errors of several are independent.
        profiled: say in each estimate where its nats lie.

    Raises:
        ConfigError: a value is out of range, or `method` is unknown.

    Source: LLaDA (Nie et al. 2025), eq. 6 (exact_count) and eq. 4 (bernoulli).
    """

    mask_token_id: int
    samples: int = 128
    seed: int = 0
    batch_size: int = 32
    guidance_scale: float = 0.0
    method: str = "exact_count"
    enumerates: bool = True
    corrects: bool = True
    own_masks: bool = False
    profiled: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(
                f'likelihood method "{self.method}" is not one of {", ".join(METHODS)}.'
                f"{did_you_mean(self.method, METHODS)}"
            )
        for name, value in (("samples", self.samples), ("batch_size", self.batch_size)):
            if value < 1:
                raise ConfigError(f"{name} of a likelihood estimate is {value}; it must be at least 1.")

    def __call__(
        self, denoiser: Denoiser, prompt_ids: Int[Tensor, " P"], target_ids: Int[Tensor, " n"]
    ) -> LikelihoodEstimate:
        """Estimate log p(target | prompt); see `log_likelihood`."""
        pair = [int(token) for token in prompt_ids], [int(token) for token in target_ids]
        return dict(self.many(denoiser, [pair], device=target_ids.device))[0]

    def many(
        self,
        denoiser: Denoiser,
        pairs: Sequence[Pair],
        *,
        device: torch.device | str = "cpu",
        numbers: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, LikelihoodEstimate]]:
        """Estimate log p(target | prompt) of many pairs, `batch_size` noised copies at a time, whosever they are.

        Copies that are equal are fed once: the choices after one question are, where all of a choice is masked.

        Args:
            denoiser: without dropout, if results are to repeat.
            pairs: ids of prompt and target, either may be empty.
            device: the denoiser's.
            numbers: by which `own_masks` tells the pairs apart; None: their indices.

        Yields:
            Index of the pair and its estimate, each once, the longest first; up to rounding the same as alone.
        """
        for window in windows(pairs, self.batch_size, self.rows_of):
            questions = Questions(
                self.batch_size, device, guidance_scale=self.guidance_scale, mask_token_id=self.mask_token_id
            )
            masks = {i: self.masks(len(pairs[i][1]), numbers[i] if numbers else i) for i in window}
            first = {index: self._ask(questions, pairs[index], masks[index]) for index in window}
            nll_n, slot_n, column_n = questions.tokens(denoiser)
            for index, slot in first.items():
                own = masks[index]
                if own is None:
                    yield index, LikelihoodEstimate(0.0, 0.0, self.samples)
                    continue
                start, end = torch.searchsorted(slot_n, torch.tensor([slot, slot + len(own.is_masked_Un)]))
                mask_n, position_n = slot_n[start:end] - slot, column_n[start:end] - len(pairs[index][0])
                yield index, self.estimate(own, nll_n[start:end], mask_n, position_n)

    def estimate(self, masks: TargetMasks, nll_n: Tensor, mask_n: Tensor, position_n: Tensor) -> LikelihoodEstimate:
        """The estimate, given the cross-entropy of each masked token, its mask, and its place among what is masked."""
        if self.corrects and self.method == "exact_count" and not masks.is_exact:
            found = masks.estimate_by_tokens(nll_n, mask_n, position_n)
        else:
            sums_U = torch.zeros(len(masks.is_masked_Un), dtype=torch.float64).index_add(0, mask_n, nll_n)
            found = masks.estimate(sums_U)
        return replace(found, profile=masks.profile(nll_n, mask_n, position_n)) if self.profiled else found

    def masks(self, length: int, number: int, block: int = 0) -> TargetMasks | None:
        """The masks of `length` tokens of a target, or of a block of it; None: there are no tokens.

        Args:
            length: tokens.
            number: of the pair. block: see `target_masks`.
        """
        if length == 0:
            return None
        seed = (self.seed << 32) + number + 1 if self.own_masks else self.seed
        how = {"samples": self.samples, "method": self.method, "enumerates": self.enumerates}
        return target_masks(length, seed=seed, block=block, **how)

    def rows_of(self, length: int) -> int:
        """How many noised copies a target of so many tokens has, at most."""
        return min(2**length - 1, self.samples) if length < 32 else self.samples

    def _ask(self, questions: Questions, pair: Pair, masks: TargetMasks | None) -> int:
        first, start, x0_L = questions.slots, len(pair[0]), torch.tensor([*pair[0], *pair[1]], dtype=torch.int64)
        for is_masked_n in () if masks is None else masks.is_masked_Un:
            at = start + is_masked_n.nonzero()[:, 0]
            questions.ask(x0_L.index_fill(0, at, self.mask_token_id), at, x0_L[at], prompt=start)
        return first


def windows(
    pairs: Sequence[Pair],
    batch_size: int,
    rows_of: Callable[[int], int],
    order: Callable[[Sequence[Pair]], list[int]] = by_length,
) -> Iterator[list[int]]:
    """Indices of pairs, some forwards' worth at a time, in an order that brings together those of one prompt."""
    window: list[int] = []
    rows = 0
    for index in order(pairs):
        window.append(index)
        rows += rows_of(len(pairs[index][1]))
        if rows >= _AHEAD * batch_size:
            yield window
            window, rows = [], 0
    yield window


def causal_log_likelihoods(
    denoiser: Denoiser,
    pairs: Sequence[Pair],
    *,
    batch_size: int = 32,
    profiled: bool = False,
    shares: bool = True,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, LikelihoodEstimate]]:
    """log p(target | prompt) under a network whose row i predicts token i + 1: exact, by one forward.

    Args:
        denoiser: its rows see what is before them.
        pairs: ids of prompt and target; a prompt holds at least one token.
        batch_size: rows per forward.
        profiled: say in each estimate where its nats lie.
        shares: compute once what several rows begin with, where the denoiser has a cache.
        device: the denoiser's.

    Yields:
        Index of the pair and its estimate, each once, with a standard error of 0; up to rounding the same as alone.

    Raises:
        ValueError: a prompt is empty.
    """
    for window in windows(pairs, batch_size, lambda length: 1, by_prompt):
        questions = Questions(batch_size, device, is_causal=True, shares=shares)
        for index in window:
            questions.ask(*causal_question(pairs[index]))
        nll_n, slot_n, column_n = questions.tokens(denoiser)
        bounds = torch.searchsorted(slot_n, torch.arange(len(window) + 1))
        for index, start, end in zip(window, bounds, bounds[1:], strict=False):
            own_n, position_n = nll_n[start:end], column_n[start:end] - len(pairs[index][0]) + 1
            found = LikelihoodEstimate(-float(own_n.sum()), 0.0, 1)
            yield index, replace(found, profile=_exact_profile(own_n, position_n)) if profiled else found


def causal_question(pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """What to ask a network whose row i predicts token i + 1: ids to be fed, columns, and targets there; int64.

    Raises:
        ValueError: the prompt is empty.
    """
    prompt, target = pair
    if len(prompt) == 0:
        raise ValueError("nothing predicts the first token; a prompt needs at least one")
    at = torch.arange(len(prompt) - 1, len(prompt) + len(target) - 1)
    ids = torch.tensor([*prompt, *target[:-1]], dtype=torch.int64)
    return ids, at, torch.tensor(list(target), dtype=torch.int64)


def _exact_profile(nll_n: Tensor, position_n: Tensor) -> Profile:
    one_n, none_n = torch.ones_like(nll_n), torch.zeros_like(position_n)
    return profile_of(nll_n, one_n, none_n, none_n + 1, position_n, len(nll_n))


def log_likelihood(
    denoiser: Denoiser, prompt_ids: Int[Tensor, " P"], target_ids: Int[Tensor, " n"], **settings: Any
) -> LikelihoodEstimate:
    """Estimate log p(target | prompt) in nats.

    Args:
        denoiser: without dropout, if results are to repeat.
        prompt_ids: int64 `[P]`, on the denoiser's device; may be empty.
        target_ids: int64 `[n]`, likewise; an empty target has log-likelihood 0.
        **settings: the fields of `LikelihoodEstimator`; `mask_token_id` is required.

    Raises:
        ConfigError: see `LikelihoodEstimator`.
    """
    return LikelihoodEstimator(**settings)(denoiser, prompt_ids, target_ids)
