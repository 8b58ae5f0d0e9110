"""The bound that MDLM and LLaDA minimise: cross-entropy at masked positions, weighted by the time.

Noise is prepared on the CPU, from the identity of the samples alone; the loss is a sum over the noised positions, and
the network's head runs only there. Dividing is left to whoever knows the whole update.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.diffusion.noising import absorb, draw_mask
from unmask.diffusion.schedules import Linear, NoiseSchedule, mask_prob
from unmask.diffusion.timesteps import TIME_SAMPLING
from unmask.diffusion.weights import cart_weight, elbo_weight
from unmask.types import Batch, Denoiser, LossSums

Weight = Literal["elbo", "uniform", "cart"]
Normalization = Literal["token", "sequence", "batch"]


@dataclass(frozen=True)
class MaskedNoise:
    """One noisy view of a batch, reduced to what the loss needs.

    Attributes:
        xt_BL: int64 noised ids.
        masked_at: int64 `[n]` flat positions of the masked tokens; the head runs only there.
        targets: int64 `[n]` clean ids at these positions.
        loss_weight: float32 `[n]`; weight of each cross-entropy, the normalisation inside a sample included.
        elbo_weight: float32 `[n]`; weight with which the sum is the bound in nats.
        noisable: float32 scalar; positions that could have been masked.
    """

    xt_BL: Tensor
    masked_at: Tensor
    targets: Tensor
    loss_weight: Tensor
    elbo_weight: Tensor
    noisable: Tensor


@dataclass(frozen=True)
class MaskedDiffusion:
    """Masked diffusion (MDLM, arXiv 2406.07524, eq. 8; LLaDA, arXiv 2502.09992, eq. 3 and 5).

    Attributes:
        mask_token_id: the id that replaces a noised token.
        schedule: alpha(t).
        loss_weight: `elbo` -alpha'/(1-alpha), `uniform` 1, or Dream's `cart`.
        normalization: what `count` counts: noisable tokens, or samples; with `sequence` each sample's cross-entropies
            are divided by its own number of noisable tokens (LLaDA's rule for fine-tuning).
        time_sampling: `low_discrepancy` or `iid`. time_epsilon: the smallest time.
        seed: of times and masks. cart_p: decay of the `cart` weight.
    """

    mask_token_id: int
    schedule: NoiseSchedule = field(default_factory=Linear)
    loss_weight: Weight = "elbo"
    normalization: Normalization = "token"
    time_sampling: str = "low_discrepancy"
    time_epsilon: float = 1e-3
    seed: int = 0
    cart_p: float = 0.3

    def count(self, batch: Batch) -> float:
        """The batch's share of the update's denominator: noisable tokens, or samples that have any."""
        if self.normalization == "token":
            return float(batch.may_noise_BL.sum())
        return float((per_sample(batch, batch.may_noise_BL) > 0).sum())

    def noise(self, batch: Batch) -> MaskedNoise:
        """Draw times and masks of a batch; a pure function of the seed and the samples' keys, on the CPU."""
        draw_times = TIME_SAMPLING[self.time_sampling]
        t_S = draw_times(batch.keys.visit_S, seed=self.seed, epsilon=self.time_epsilon)
        prob_S = mask_prob(self.schedule, t_S)
        is_masked_BL = draw_mask(batch.sample_BL, batch.may_noise_BL, prob_S, keys=batch.keys, seed=self.seed)
        return self.noise_at(batch, t_S, is_masked_BL)

    def noise_at(self, batch: Batch, t_S: Float[Tensor, " S"], is_masked_BL: Bool[Tensor, "B L"]) -> MaskedNoise:
        """The noisy view in which exactly these positions are masked, at these times."""
        masked_at = is_masked_BL.flatten().nonzero().squeeze(1)
        sample = batch.sample_BL.flatten()[masked_at]
        elbo = elbo_weight(self.schedule, t_S).float()[sample]
        weight = self._loss_weight(batch, is_masked_BL, masked_at, elbo)
        if self.normalization == "sequence":
            weight = weight / per_sample(batch, batch.may_noise_BL)[sample]
        return MaskedNoise(
            xt_BL=absorb(batch.x0_BL, is_masked_BL, self.mask_token_id),
            masked_at=masked_at,
            targets=batch.x0_BL.flatten()[masked_at],
            loss_weight=weight,
            elbo_weight=elbo,
            noisable=batch.may_noise_BL.sum().float(),
        )

    def _loss_weight(
        self, batch: Batch, is_masked_BL: Bool[Tensor, "B L"], masked_at: Int[Tensor, " n"], elbo: Float[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        if self.loss_weight == "uniform":
            return torch.ones_like(elbo)
        if self.loss_weight == "cart":
            return cart_weight(is_masked_BL, batch.sample_BL, self.cart_p).flatten()[masked_at]
        return elbo

    def __call__(self, denoiser: Denoiser, batch: Batch, noise: MaskedNoise) -> LossSums:
        """Sum of the weighted cross-entropies of a noisy view, in nats.

        Returns:
            the loss, and as metrics `nll` (the bound, over noisable tokens) and `unscaled_loss` (plain cross-entropy,
            over masked tokens).
        """
        nll = denoiser(
            noise.xt_BL,
            attention=batch.attention,
            positions=batch.positions_BL,
            logits_at=noise.masked_at,
            targets=noise.targets,
        ).nll
        assert nll is not None, "a denoiser given targets returns their negative log-likelihood"
        plain = nll.detach()
        masked = plain.new_full((), float(plain.shape[0]))  # not torch.tensor: that would wait for the device
        return LossSums(
            loss=(nll * noise.loss_weight).sum(),
            metrics={
                "nll": ((plain * noise.elbo_weight).sum(), noise.noisable),
                "unscaled_loss": (plain.sum(), masked),
            },
        )


def per_sample(batch: Batch, chosen_BL: Bool[Tensor, "B L"]) -> Float[Tensor, " S"]:
    """How many of the chosen positions each sample has."""
    inside = batch.sample_BL >= 0
    counts = torch.zeros(len(batch.keys.row_S), dtype=torch.float32)
    return counts.index_add_(0, batch.sample_BL[inside], chosen_BL[inside].float())
