"""The bound that MDLM and LLaDA minimise: cross-entropy at masked positions, weighted by the time.

Noise is prepared on the CPU, from the identity of the samples alone; the loss is a sum over the noised positions, and
the network's head runs only there. Dividing is left to whoever knows the whole update.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.diffusion.noising import absorb
from unmask.diffusion.weights import cart_weight, elbo_weight
from unmask.objectives.bound_error import Chance
from unmask.objectives.views import AbsorbingNoise, Groups, View, members
from unmask.types import AttentionSpec, Batch, Denoiser, LossSums, map_tensors

Weight = Literal["elbo", "uniform", "cart"]
Normalization = Literal["token", "sequence", "batch"]


@dataclass(frozen=True)
class MaskedNoise:
    """The noisy views of a batch, reduced to what the loss needs.

    Attributes:
        xt_BL: int64 noised ids, as they are fed. attention, positions_BL: of what is fed.
        masked_at: int64 `[n]` flat positions of the masked tokens; the head runs only there.
        targets: int64 `[n]` clean ids at these positions.
        loss_weight: float32 `[n]`; weight of each cross-entropy, the normalisation inside a sample included.
        elbo_weight: float32 `[n]`; weight with which the sum is the bound in nats.
        rate: float32 `[n]`; how much more often each is to be counted than it is drawn.
        sample: int64 `[n]`; which sample each is of.
        level_S: float32; what sorts samples by their noise: the time of the first group.
        noisable_S: float32; positions of each sample that could have been masked.
        chance: what evaluation's noise leaves open; None for that of training.
    """

    xt_BL: Tensor
    attention: AttentionSpec | None
    positions_BL: Tensor | None
    masked_at: Tensor
    targets: Tensor
    loss_weight: Tensor
    elbo_weight: Tensor
    rate: Tensor
    sample: Tensor
    level_S: Tensor
    noisable_S: Tensor
    chance: Chance | None


@dataclass(frozen=True)
class Masked:
    """The masked tokens of all views: where they stand, `[n]` each, and their weights.

    Attributes:
        view, place: int64; which view, and which flat position of the clean batch. targets, sample, group: int64.
        loss_weight, elbo_weight, rate: float32; see `MaskedNoise`.
    """

    view: Int[Tensor, " n"]
    place: Int[Tensor, " n"]
    targets: Int[Tensor, " n"]
    sample: Int[Tensor, " n"]
    group: Int[Tensor, " n"]
    loss_weight: Float[Tensor, " n"]
    elbo_weight: Float[Tensor, " n"]
    rate: Float[Tensor, " n"]


@dataclass(frozen=True)
class MaskedDiffusion(AbsorbingNoise):
    """Masked diffusion (MDLM, arXiv 2406.07524, eq. 8; LLaDA, arXiv 2502.09992, eq. 3 and 5).

    Attributes:
        loss_weight: `elbo` -alpha'/(1-alpha), `uniform` 1, or Dream's `cart`.
        normalization: what `count` counts: noisable tokens, or samples; with `sequence` each sample's cross-entropies
            are divided by its own number of noisable tokens (LLaDA's rule for fine-tuning).
        cart_p: decay of the `cart` weight.
        others: see `AbsorbingNoise`. The copies of a sample are rows of their own; the loss is their mean.
    """

    loss_weight: Weight = "elbo"
    normalization: Normalization = "token"
    cart_p: float = 0.3

    def count(self, batch: Batch) -> float:
        """The batch's share of the update's denominator: noisable tokens, or samples that have any."""
        if self.normalization == "token":
            return float(batch.may_noise_BL.sum())
        return float((per_sample(batch, batch.may_noise_BL) > 0).sum())

    def groups(self, batch: Batch) -> Groups:
        """Which tokens share a time."""
        return Groups.of_samples(batch)

    def noise(self, batch: Batch) -> MaskedNoise:
        """Draw times and masks of a batch; a pure function of the seed and the samples' keys, on the CPU."""
        groups = self.groups(batch)
        return self.laid_out(batch, groups, self.draw(batch, groups))

    def noise_at(self, batch: Batch, t_S: Float[Tensor, " S"], is_masked_BL: Bool[Tensor, "B L"]) -> MaskedNoise:
        """The noisy view in which exactly these positions are masked, at these times."""
        groups = self.groups(batch)
        t_G = t_S[groups.sample_G]
        return self.laid_out(batch, groups, [View(is_masked_BL, elbo_weight(self.schedule, t_G).float(), t_G)])

    def laid_out(self, batch: Batch, groups: Groups, views: list[View]) -> MaskedNoise:
        """The views as rows of a batch, one view after the other."""
        masked, copies = self.masked(batch, groups, views), len(views)
        x0_BL, attention, positions_BL = batch.x0_BL, batch.attention, batch.positions_BL
        if copies > 1:
            x0_BL = _repeated(x0_BL, copies)
            attention = attention and map_tensors(attention, partial(_repeated, copies=copies))
            positions_BL = None if positions_BL is None else _repeated(positions_BL, copies)
        is_masked_BL = torch.cat([view.is_masked_BL for view in views])
        return MaskedNoise(
            xt_BL=absorb(x0_BL, is_masked_BL, self.mask_token_id),
            attention=attention,
            positions_BL=positions_BL,
            masked_at=masked.view * batch.x0_BL.numel() + masked.place,
            **told(batch, groups, views, masked),
        )

    def masked(self, batch: Batch, groups: Groups, views: list[View]) -> Masked:
        """The masked tokens of all views and their weights; each view counts its share of one."""
        at = torch.stack([view.is_masked_BL.flatten() for view in views]).nonzero()
        view, place = at[:, 0], at[:, 1]
        sample, group = batch.sample_BL.flatten()[place], groups.group_BL.flatten()[place]
        elbo = torch.stack([each.weight_G for each in views])[view, group]
        rates = [torch.ones_like(each.weight_G) if each.rate_G is None else each.rate_G for each in views]
        rate = torch.stack(rates)[view, group]
        weight = elbo if self.loss_weight == "elbo" else rate * self._other_weight(batch, views, view, place)
        if self.normalization == "sequence":
            weight = weight / per_sample(batch, batch.may_noise_BL)[sample]
        shares = len(views)
        targets = batch.x0_BL.flatten()[place]
        return Masked(view, place, targets, sample, group, weight / shares, elbo / shares, rate)

    def _other_weight(
        self, batch: Batch, views: list[View], view: Int[Tensor, " n"], place: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        if self.loss_weight == "uniform":
            return torch.ones(len(view))
        weights = [cart_weight(each.is_masked_BL, batch.sample_BL, self.cart_p).flatten() for each in views]
        return torch.stack(weights)[view, place]

    def __call__(self, denoiser: Denoiser, batch: Batch, noise: MaskedNoise) -> LossSums:
        """Sum of the weighted cross-entropies of the noisy views, in nats.

        Returns:
            the loss, and as metrics `nll` (the bound, over noisable tokens) and `unscaled_loss` (plain cross-entropy,
            over masked tokens); where no gradient is wanted, each sample's bound too, and what its error is reckoned
            from.
        """
        nll = denoiser(
            noise.xt_BL,
            attention=noise.attention,
            positions=noise.positions_BL,
            logits_at=noise.masked_at,
            targets=noise.targets,
        ).nll
        assert nll is not None, "a denoiser given targets returns their negative log-likelihood"
        plain = nll.detach()
        bound = plain * noise.elbo_weight
        nll_S = evidence_SE = None
        if not torch.is_grad_enabled():
            nll_S = bound.new_zeros(noise.level_S.shape).index_add(0, noise.sample, bound)
            evidence_SE = noise.chance and noise.chance.evidence(plain, nll_S)
        return LossSums(
            loss=(nll * noise.loss_weight).sum(),
            metrics={
                "nll": (bound.sum(), noise.noisable_S.sum()),
                "unscaled_loss": ((plain * noise.rate).sum(), noise.rate.sum()),
            },
            nll_S=nll_S,
            evidence_SE=evidence_SE,
        )


def told(batch: Batch, groups: Groups, views: list[View], masked: Masked) -> dict[str, Any]:
    """The fields of `MaskedNoise` that do not depend on how the views are fed."""
    first_G = groups.place_G == 0
    level_S = torch.zeros(len(batch.keys.row_S)).index_add(0, groups.sample_G[first_G], views[0].t_G[first_G].float())
    return {
        "targets": masked.targets,
        "loss_weight": masked.loss_weight,
        "elbo_weight": masked.elbo_weight,
        "rate": masked.rate,
        "sample": masked.sample,
        "level_S": level_S,
        "noisable_S": per_sample(batch, batch.may_noise_BL),
        "chance": Chance.of(batch, groups, views[0], masked.group, masked.place),
    }


def _repeated(values_BL: Tensor, copies: int) -> Tensor:
    return values_BL.repeat(copies, 1)


def per_sample(batch: Batch, chosen_BL: Bool[Tensor, "B L"]) -> Float[Tensor, " S"]:
    """How many of the chosen positions each sample has."""
    return members(batch.sample_BL, chosen_BL, batch.keys.row_S).float()
