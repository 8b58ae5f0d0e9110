"""Likelihoods under a block-causal denoiser: a bound for every block given the clean ones before it, added up.

All blocks of a target are noised at once, and many noised copies are fed beside one clean copy of what they see: see
`block.py`. A prompt is given wherever it ends, within a block too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import methodcaller

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from unmask.objectives.asking import cross_entropy, guided
from unmask.objectives.block import BlockDiffusion
from unmask.objectives.estimators import LikelihoodEstimator, Pair
from unmask.objectives.profile import profile_of
from unmask.objectives.target_masks import LikelihoodEstimate, TargetMasks, total
from unmask.objectives.views import View
from unmask.types import Batch, Denoiser, DenoiserOutput, SampleKeys, map_tensors


@dataclass(frozen=True)
class _Target:
    """A target among the others: its index, ids, where it starts, and the masks of each of its blocks."""

    index: int
    ids: list[int]
    start: int
    blocks: list[TargetMasks]

    @property
    def views(self) -> int:
        return max(len(masks.is_masked_Un) for masks in self.blocks)

    def masked(self, view: int) -> Tensor:
        """bool `[L]`: what a copy masks; nothing of a block that has no more masks."""
        none = torch.zeros(self.start, dtype=torch.bool)
        return torch.cat([none, *(_nth(masks.is_masked_Un, view) for masks in self.blocks)])


def _nth(is_masked_Un: Tensor, view: int) -> Tensor:
    return is_masked_Un[view] if view < len(is_masked_Un) else torch.zeros_like(is_masked_Un[0])


@dataclass(frozen=True)
class BlockwiseEstimator:
    """Estimates log p(target | prompt) as a sum over blocks, each by `how`; blocks begin at multiples of `block_size`.

    Attributes:
        how: samples, seed, rows per forward, guidance. Where a block has no more masks than samples, its bound is
            exact.
        block_size: tokens of a block.
        halves: see `BlockDiffusion`.

    Source: BD3-LM (Arriola et al. 2025), eq. 4 and 5, with counts in place of times inside a block.
    """

    how: LikelihoodEstimator
    block_size: int
    halves: bool = False

    def many(
        self,
        denoiser: Denoiser,
        pairs: Sequence[Pair],
        *,
        device: torch.device | str = "cpu",
        numbers: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, LikelihoodEstimate]]:
        """Estimate many pairs; arguments and results as of `LikelihoodEstimator.many`."""
        told = numbers or range(len(pairs))
        targets = [self._target(i, told[i], *pair) for i, pair in enumerate(pairs) if len(pair[1])]
        for index, (_, target) in enumerate(pairs):
            if len(target) == 0:
                yield index, LikelihoodEstimate(0.0, 0.0, self.how.samples)
        for chunk in self._chunks(targets):
            step = 1 if self.halves else max(1, self.how.batch_size // len(chunk))
            starts = range(0, chunk[0].views, step)
            parts = [self._tokens(denoiser, chunk, range(start, start + step), device) for start in starts]
            row_n, copy_n, column_n, nll_n = (torch.cat(part) for part in zip(*parts, strict=True))
            for row, target in enumerate(chunk):
                own_n = row_n == row
                yield target.index, self._estimate(target, copy_n[own_n], column_n[own_n], nll_n[own_n])

    def _target(self, index: int, number: int, prompt: Sequence[int], target: Sequence[int]) -> _Target:
        start, end = len(prompt), len(prompt) + len(target)
        edges = [start, *range((start // self.block_size + 1) * self.block_size, end, self.block_size), end]
        spans = enumerate(zip(edges, edges[1:], strict=False))
        blocks = [self.how.masks(last - first, number, block) for block, (first, last) in spans]
        return _Target(index, [*prompt, *target], start, [masks for masks in blocks if masks is not None])

    def _chunks(self, targets: list[_Target]) -> Iterator[list[_Target]]:
        """Targets with the same number of copies, as many as fill a forward."""
        by_views: dict[int, list[_Target]] = {}
        for target in sorted(targets, key=lambda target: len(target.ids), reverse=True):
            by_views.setdefault(target.views, []).append(target)
        for views, group in by_views.items():
            rows = max(1, self.how.batch_size // views)
            yield from (group[start : start + rows] for start in range(0, len(group), rows))

    @torch.no_grad()
    def _tokens(
        self, denoiser: Denoiser, chunk: list[_Target], copies: range, device: torch.device | str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each masked token its row, copy, column and cross-entropy."""
        batch = _batch(chunk)
        masked_VBL = torch.zeros(len(copies), *batch.x0_BL.shape, dtype=torch.bool)
        for row, target in enumerate(chunk):
            for view, copy in enumerate(copies):
                masked_VBL[view, row, : len(target.ids)] = target.masked(copy)
        view_n, row_n, column_n = masked_VBL.nonzero(as_tuple=True)
        return row_n, view_n + copies.start, column_n, self._nll(denoiser, batch, masked_VBL, device).double().cpu()

    def _nll(self, denoiser: Denoiser, batch: Batch, masked_VBL: Tensor, device: torch.device | str) -> Tensor:
        objective = BlockDiffusion(self.how.mask_token_id, block_size=self.block_size, halves=self.halves)
        groups = objective.groups(batch)
        one_G = torch.ones(len(groups.sample_G))
        views = [View(is_masked_BL, one_G, one_G) for is_masked_BL in masked_VBL]
        noise = map_tensors(objective.laid_out(batch, groups, views), methodcaller("to", device))

        def ask(tokens_BM: Tensor, **wanted: Tensor) -> DenoiserOutput:
            return denoiser(
                tokens_BM,
                attention=noise.attention,
                positions=noise.positions_BL,
                logits_at=noise.masked_at,
                **wanted,
            )

        if not self.how.guidance_scale:
            nll = ask(noise.xt_BL, targets=noise.targets).nll
            assert nll is not None, "a denoiser given targets returns their negative log-likelihood"
            return nll
        hidden_BL = torch.where(batch.may_noise_BL, batch.x0_BL, self.how.mask_token_id)
        bare = objective.laid_out(replace(batch, x0_BL=hidden_BL), groups, views)
        given, without = ask(noise.xt_BL).logits, ask(bare.xt_BL.to(device)).logits
        assert given is not None and without is not None, "a denoiser given no targets returns logits"
        return cross_entropy(guided(given, without, self.how.guidance_scale), noise.targets)

    def _estimate(
        self, target: _Target, copy_n: Int[Tensor, " n"], column_n: Int[Tensor, " n"], nll_n: Float64[Tensor, " n"]
    ) -> LikelihoodEstimate:
        block_n = column_n // self.block_size - target.start // self.block_size
        share_n, masked_n, maskable_n = torch.zeros_like(nll_n), torch.zeros_like(copy_n), torch.ones_like(copy_n)
        parts: list[LikelihoodEstimate] = []
        start = target.start
        for block, masks in enumerate(target.blocks):
            own_n = block_n == block
            parts.append(self.how.estimate(masks, nll_n[own_n], copy_n[own_n], column_n[own_n] - start))
            share_n[own_n] = masks.share_U[copy_n[own_n]]
            masked_n[own_n] = masks.is_masked_Un.sum(1)[copy_n[own_n]]
            maskable_n[own_n] = masks.is_masked_Un.shape[1]
            start += masks.is_masked_Un.shape[1]
        if not self.how.profiled:
            return total(parts)
        position_n, length = column_n - target.start, len(target.ids) - target.start
        # shares masked are those of a block, positions are of the whole target
        profile = profile_of(nll_n, share_n, masked_n, maskable_n, position_n, length)
        return replace(total(parts), profile=profile)


def _batch(chunk: list[_Target]) -> Batch:
    """The targets as rows, padded at their ends."""
    width, number_S = max(len(target.ids) for target in chunk), torch.arange(len(chunk))
    x0_BL = torch.zeros(len(chunk), width, dtype=torch.int64)
    may_BL, sample_BL = torch.zeros_like(x0_BL, dtype=torch.bool), torch.full_like(x0_BL, -1)
    for row, target in enumerate(chunk):
        length = len(target.ids)
        x0_BL[row, :length] = torch.tensor(target.ids)
        may_BL[row, target.start : length] = True
        sample_BL[row, :length] = row
    return Batch(x0_BL, may_BL, sample_BL, SampleKeys(number_S, number_S, torch.zeros_like(number_S)))
