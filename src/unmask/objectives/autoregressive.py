"""Next-token prediction, under the same trainer: the baseline that a diffusion model is compared with.

Which tokens are learned, how they are counted and divided is the same as for `masked`: prompts are given, answers are
predicted. Nothing is noised and nothing is drawn. It wants a network whose row i predicts token i + 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.objectives.masked import Normalization, per_sample
from unmask.types import AttentionSpec, Batch, Denoiser, LossSums


@dataclass(frozen=True)
class NextTokens:
    """What the loss needs of a batch.

    Attributes:
        predict_at: int64 `[n]` flat positions whose logits are wanted, each just before its target.
        targets: int64 `[n]` clean ids.
        loss_weight: float32 `[n]`; the normalisation inside a sample.
        hides: False where causality alone hides whatever has to be hidden: one document per row, padded at its end.
    """

    predict_at: Int[Tensor, " n"]
    targets: Int[Tensor, " n"]
    loss_weight: Float[Tensor, " n"]
    hides: bool


@dataclass(frozen=True)
class Autoregressive:
    """Cross-entropy of each learned token given those before it in its document, in nats.

    Attributes:
        normalization: as for `masked`: what `count` counts is learned tokens, or samples; with `sequence` each
            sample's cross-entropies are divided by its own number of them.
    """

    normalization: Normalization = "token"

    def count(self, batch: Batch) -> float:
        """The batch's share of the update's denominator: learned tokens, or samples that have any."""
        learned_BL = _learned(batch)
        if self.normalization == "token":
            return float(learned_BL.sum())
        return float((per_sample(batch, learned_BL) > 0).sum())

    def noise(self, batch: Batch) -> NextTokens:
        """Find the targets, on the CPU; the name is the seam's, there is no noise."""
        learned_BL = _learned(batch)
        at = learned_BL.flatten().nonzero().squeeze(1)
        weight = torch.ones(at.shape, dtype=torch.float32)
        if self.normalization == "sequence":
            weight = weight / per_sample(batch, learned_BL)[batch.sample_BL.flatten()[at]]
        return NextTokens(at - 1, batch.x0_BL.flatten()[at], weight, hides=_hides(batch))

    def __call__(self, denoiser: Denoiser, batch: Batch, noise: NextTokens) -> LossSums:
        """Sum of the weighted cross-entropies, in nats.

        Returns:
            the loss, and as metric `nll`, over the learned tokens: exact where `masked` has a bound of the same name.
        """
        spec = batch.attention if noise.hides and batch.attention is not None else AttentionSpec()
        nll = denoiser(
            batch.x0_BL,
            attention=replace(spec, kind="causal"),
            positions=batch.positions_BL,
            logits_at=noise.predict_at,
            targets=noise.targets,
        ).nll
        assert nll is not None, "a network given targets returns their negative log-likelihood"
        plain = nll.detach()
        learned = plain.new_full((), float(plain.shape[0]))  # not torch.tensor: that would wait for the device
        return LossSums(loss=(nll * noise.loss_weight).sum(), metrics={"nll": (plain.sum(), learned)})


def _learned(batch: Batch) -> Bool[Tensor, "B L"]:
    """Positions that are learned and have a token before them in their own sample and document."""
    follows_BL = torch.zeros_like(batch.may_noise_BL)
    follows_BL[:, 1:] = (batch.sample_BL[:, 1:] == batch.sample_BL[:, :-1]) & (batch.sample_BL[:, 1:] >= 0)
    if batch.attention is not None and batch.attention.document_BL is not None:
        document_BL = batch.attention.document_BL
        follows_BL[:, 1:] &= document_BL[:, 1:] == document_BL[:, :-1]
    return batch.may_noise_BL & follows_BL


def _hides(batch: Batch) -> bool:
    """Whether a causal pattern has to know of documents or padding too."""
    if batch.attention is None:
        return False
    real_BL = batch.sample_BL >= 0
    padded_at_start = bool((real_BL[:, 1:] & ~real_BL[:, :-1]).any())
    return batch.attention.packed or padded_at_start
