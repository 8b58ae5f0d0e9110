"""How likely a denoiser finds a target after a prompt, by Monte Carlo over masks.

Each estimate is of the evidence lower bound of log p(target | prompt), which is the log-likelihood itself for a
denoiser whose conditionals are those of one joint distribution. Tokenizers are unknown here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from unmask.diffusion.keys import Purpose, uniforms
from unmask.diffusion.noising import absorb, exact_count_mask
from unmask.diffusion.schedules import Linear
from unmask.diffusion.timesteps import exact_counts, low_discrepancy
from unmask.diffusion.weights import elbo_weight
from unmask.errors import ConfigError, did_you_mean
from unmask.types import Denoiser

METHODS = ("exact_count", "bernoulli")


@dataclass(frozen=True)
class LikelihoodEstimate:
    """A Monte Carlo estimate of a log-likelihood.

    Attributes:
        mean: the estimate, nats.
        stderr: its standard error, nats, from differences of samples with neighbouring noise levels; nan for one
            sample.
        samples: noised copies that were scored.
    """

    mean: float
    stderr: float
    samples: int


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: logits = unconditional + (scale + 1) (conditional - unconditional).

    Attributes:
        scale: 0 is no guidance.
        prompt_BL: bool; positions that are masked to get the unconditional logits.
        mask_token_id: what they are replaced by.
    """

    scale: float
    prompt_BL: Tensor
    mask_token_id: int


@dataclass(frozen=True)
class LikelihoodEstimator:
    """How to estimate; calling it estimates.

    Attributes:
        mask_token_id: the checkpoint's mask token.
        samples: noised copies to score.
        seed: fixes the noise; all targets of one length get the same, so that comparing them is less noisy.
        batch_size: copies per forward; the estimate does not depend on it.
        guidance_scale: classifier-free guidance; 0 is none. With it the result is a score, no likelihood.
        method: "exact_count" masks k of n tokens, k spread evenly over 1..n, and weighs by n / k (LLaDA's estimator,
            stratified over all samples). "bernoulli" masks each token with probability t, t of low discrepancy over
            (0, 1), and weighs by 1 / t. Both are unbiased for the bound; the first has less variance.

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

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(
                f'likelihood method "{self.method}" is not one of {", ".join(METHODS)}.'
                f"{did_you_mean(self.method, METHODS)}"
            )
        for name, value in (("samples", self.samples), ("batch_size", self.batch_size)):
            if value < 1:
                raise ConfigError(f"{name} of a likelihood estimate is {value}; it must be at least 1.")

    @torch.no_grad()
    def __call__(
        self, denoiser: Denoiser, prompt_ids: Int[Tensor, " P"], target_ids: Int[Tensor, " n"]
    ) -> LikelihoodEstimate:
        """Estimate log p(target | prompt); see `log_likelihood`."""
        if len(target_ids) == 0:
            return LikelihoodEstimate(0.0, 0.0, self.samples)
        is_masked_SL, weight_S, level_S = self._noise(len(prompt_ids), len(target_ids))
        x0_L = torch.cat([prompt_ids, target_ids])
        starts = range(0, self.samples, self.batch_size)
        chunks = (is_masked_SL[start : start + self.batch_size] for start in starts)
        sums = [self._sums(denoiser, x0_L, len(prompt_ids), chunk) for chunk in chunks]
        values_S = -weight_S * torch.cat(sums)
        error = _stratified_error(values_S[level_S.argsort(stable=True)])
        return LikelihoodEstimate(float(values_S.mean()), error, self.samples)

    @torch.no_grad()
    def is_greedy(self, denoiser: Denoiser, prompt_ids: Int[Tensor, " P"], target_ids: Int[Tensor, " n"]) -> bool:
        """Whether decoding greedily, the most confident token first and one per forward, gives the target.

        Stops at the first token that differs. Arguments as in `log_likelihood`.
        """
        prompt, length = len(prompt_ids), len(target_ids)
        x0_BL = torch.cat([prompt_ids, target_ids])[None]
        is_masked_BL = torch.arange(prompt + length, device=x0_BL.device)[None] >= prompt
        for _ in range(length):
            tokens_BL = absorb(x0_BL, is_masked_BL, self.mask_token_id)
            places = is_masked_BL[0].nonzero()[:, 0]
            logits = _logits(denoiser, tokens_BL, places, self._guidance(tokens_BL, prompt))
            confidence, predicted = logits.float().softmax(-1).max(-1)
            best = confidence.argmax()
            if int(predicted[best]) != int(x0_BL[0, places[best]]):
                return False
            is_masked_BL[0, places[best]] = False
        return True

    def _noise(self, prompt: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        numbers = [uniforms(length, seed=self.seed, purpose=Purpose.SCORE, key=(s, 0, 0)) for s in range(self.samples)]
        numbers_Sn = torch.stack(numbers)
        if self.method == "exact_count":
            first = uniforms(1, seed=self.seed, purpose=Purpose.SCORE, key=(0, 1, 0)).item()
            level_S = exact_counts(self.samples, length, start=1 + int(first * length))
            chosen_Sn = exact_count_mask(level_S, torch.ones_like(numbers_Sn, dtype=torch.bool), numbers_Sn)
            weight_S = length / level_S.double()
        else:
            level_S = low_discrepancy(torch.arange(self.samples), seed=self.seed, epsilon=0.0).double()
            chosen_Sn = numbers_Sn < level_S[:, None]
            weight_S = elbo_weight(Linear(), level_S)
        return F.pad(chosen_Sn, (prompt, 0)), weight_S, level_S

    def _sums(self, denoiser: Denoiser, x0_L: Tensor, prompt: int, is_masked_BL: Tensor) -> Tensor:
        x0_BL = x0_L.expand(is_masked_BL.shape)
        perturbed_BL = absorb(x0_BL, is_masked_BL.to(x0_L.device), self.mask_token_id)
        return masked_nll_sums(
            denoiser, perturbed_BL, x0_BL, is_masked_BL, guidance=self._guidance(perturbed_BL, prompt)
        )

    def _guidance(self, tokens_BL: Tensor, prompt: int) -> Guidance | None:
        if self.guidance_scale == 0:
            return None
        prompt_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device) < prompt
        return Guidance(self.guidance_scale, prompt_L.expand(tokens_BL.shape), self.mask_token_id)


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


def masked_nll_sums(
    denoiser: Denoiser,
    perturbed_BL: Int[Tensor, "B L"],
    x0_BL: Int[Tensor, "B L"],
    is_masked_BL: Bool[Tensor, "B L"],
    *,
    guidance: Guidance | None = None,
) -> Float64[Tensor, " B"]:
    """Sum the negative log-likelihood of the clean tokens over the masked positions of each row.

    Args:
        denoiser: its head runs at the masked positions only.
        perturbed_BL: int64; the noised tokens.
        x0_BL: int64; the clean tokens.
        is_masked_BL: bool; positions to sum over, best on the CPU (anywhere else, finding them waits for the device).
        guidance: classifier-free guidance.

    Returns:
        float64 `[B]`, nats, on the CPU.
    """
    places = is_masked_BL.reshape(-1).nonzero()[:, 0].cpu()
    sums_B = torch.zeros(len(is_masked_BL), dtype=torch.float64)
    if len(places) == 0:
        return sums_B
    flat = places.to(x0_BL.device)
    nll = _masked_nll(denoiser, perturbed_BL, flat, x0_BL.reshape(-1)[flat], guidance)
    return sums_B.index_add(0, places // is_masked_BL.shape[1], nll.double().cpu())


def _masked_nll(
    denoiser: Denoiser, tokens_BL: Tensor, flat: Tensor, targets: Tensor, guidance: Guidance | None
) -> Float[Tensor, " n"]:
    if guidance is not None:
        return F.cross_entropy(_logits(denoiser, tokens_BL, flat, guidance).float(), targets, reduction="none")
    nll = denoiser(tokens_BL, logits_at=flat, targets=targets).nll
    assert nll is not None, "a denoiser given targets returns their negative log-likelihood"
    return nll


def _logits(denoiser: Denoiser, tokens_BL: Tensor, flat: Tensor, guidance: Guidance | None) -> Float[Tensor, "n V"]:
    given = denoiser(tokens_BL, logits_at=flat).logits
    assert given is not None, "a denoiser given no targets returns logits"
    if guidance is None:
        return given
    bare = denoiser(absorb(tokens_BL, guidance.prompt_BL, guidance.mask_token_id), logits_at=flat).logits
    assert bare is not None, "a denoiser given no targets returns logits"
    return bare + (guidance.scale + 1) * (given - bare)


def bound_error(
    row_n: Float64[Tensor, " n"],
    level_n: Float64[Tensor, " n"],
    tokens_n: Float64[Tensor, " n"],
    nll_n: Float64[Tensor, " n"],
) -> float:
    """Standard error, nats per token, of the mean bound over given rows: what their noise leaves open.

    From differences of samples with neighbouring noise levels: among those of a row, and among those of all rows, which
    holds the rows' own differences too. Both are too large rather than too small; the smaller one is taken.

    Args:
        row_n: number of the row that a sample belongs to; every row has equally many. level_n: orders them by noise.
        tokens_n: noisable tokens; samples without any are left out. nll_n: nats.

    Returns:
        nan for a single sample.
    """
    some_n = tokens_n > 0
    row_n, level_n, tokens_n, nll_n = (values[some_n] for values in (row_n, level_n, tokens_n, nll_n))
    rows = len({int(row) for row in row_n})
    samples = len(row_n) // max(rows, 1)
    if len(row_n) < 2:
        return math.nan
    by_level = level_n.argsort(stable=True)
    spread = (nll_n / tokens_n)[by_level].diff().square().mean() / 2
    variances = [spread * tokens_n.square().sum() / samples**2]
    if samples > 1:
        by_row = by_level[row_n[by_level].argsort(stable=True)]
        squares = nll_n[by_row].view(rows, samples).diff(dim=1).square()
        variances.append(squares.mean(1).sum() / 2 / samples)
    return float(torch.stack(variances).min().sqrt() * samples / tokens_n.sum())


def _stratified_error(values_S: Tensor) -> float:
    # Samples are sorted by noise level: differences of neighbours hold the spread that stratification has not removed
    # (Wolter 2007, "Introduction to variance estimation", systematic sampling).
    if len(values_S) < 2:
        return math.nan
    return float(values_S.diff().square().mean() / 2 / len(values_S)) ** 0.5
