"""Likelihoods under a block-causal denoiser: a bound for every block given the clean ones before it, added up.

All blocks of a target are noised at once, and many noised copies are fed beside one clean copy of what they see: see
`block.py`. A prompt is given wherever it ends, within a block too. Its complete blocks are computed once, in a cache,
for all copies and all targets that come one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import methodcaller

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from unmask.diffusion.blocks import block_causal, block_ids
from unmask.models.kv_cache import KVCache
from unmask.objectives.asking import cross_entropy, guided
from unmask.objectives.block import CLEAN, BlockDiffusion
from unmask.objectives.estimators import LikelihoodEstimator, Pair
from unmask.objectives.profile import profile_of
from unmask.objectives.shared_prompts import NewCache, Prompt
from unmask.objectives.target_masks import LikelihoodEstimate, TargetMasks, total
from unmask.objectives.views import View
from unmask.types import AttentionSpec, Batch, Denoiser, DenoiserOutput, SampleKeys, map_tensors


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


@dataclass
class _Given:
    """The complete blocks before the targets of a chunk, in a cache, row by row.

    Attributes:
        denoiser, new_cache: computes them, and makes their storage. block_size: tokens of a block.
        device: the denoiser's.
        prompts: those blocks. hidden: their ids, where all are replaced by this one.
    """

    denoiser: Denoiser
    new_cache: NewCache
    block_size: int
    device: torch.device | str
    prompts: list[Prompt]
    hidden: int | None = None
    _cache: KVCache | None = field(default=None, init=False)

    @property
    def length_B(self) -> Tensor:
        """int64 `[B]`, tokens of each row."""
        return torch.tensor([len(prompt) for prompt in self.prompts])

    @property
    def width(self) -> int:
        """Columns of the cache that they take."""
        return max(len(prompt) for prompt in self.prompts)

    def place(self, fed: int) -> KVCache:
        """The cache, made ready for so many columns behind the prompts."""
        if self._cache is None:
            self._cache = self._filled()
        self._cache.widen(self.width + fed)
        self._cache.place(self.width, self.width + fed)
        return self._cache

    def _filled(self) -> KVCache:
        prompts = list(dict.fromkeys(self.prompts))
        cache = self.new_cache(len(prompts), self.width)
        tokens_BL = torch.zeros(len(prompts), self.width, dtype=torch.int64)
        document_BL = torch.full_like(tokens_BL, -1)
        for row, prompt in enumerate(prompts):
            tokens_BL[row, : len(prompt)] = torch.tensor(prompt)
            document_BL[row, : len(prompt)] = 0
        if self.hidden is not None:
            tokens_BL.fill_(self.hidden)
        block_BL = block_ids(torch.arange(self.width).expand_as(tokens_BL), self.block_size)
        attention = replace(block_causal(block_BL, document_BL), packed=False)
        # nothing is asked; a network that is asked nothing would compute its head everywhere
        nothing = torch.zeros(1, dtype=torch.int64, device=self.device)
        attention = map_tensors(attention, methodcaller("to", self.device))
        self.denoiser(tokens_BL.to(self.device), attention=attention, cache=cache, logits_at=nothing)
        cache.keep([prompts.index(prompt) for prompt in self.prompts])
        return cache

    def attention(self, asked: AttentionSpec | None, rows: int, fed: int) -> AttentionSpec:
        """Who sees whom among these blocks and what is fed behind them, so many columns; on the CPU."""
        column_L, none_BL = torch.arange(self.width), torch.zeros(rows, fed, dtype=torch.int64)
        given_BL = (column_L < self.length_B[:, None]).long() - 1
        fed_BL = none_BL if asked is None or asked.document_BL is None else asked.document_BL
        document_BL = torch.cat([given_BL, fed_BL], dim=1)
        if asked is None or asked.kind != "two_stream":
            # the last block alone, which sees itself and all of these
            return AttentionSpec(document_BL=document_BL, packed=False)
        assert asked.block_BL is not None and asked.stream_BL is not None
        block_BL = block_ids(column_L.expand(rows, -1), self.block_size)
        return AttentionSpec(
            "two_stream",
            document_BL=document_BL,
            packed=False,
            block_BL=torch.cat([block_BL, asked.block_BL], dim=1),
            stream_BL=torch.cat([torch.full_like(block_BL, CLEAN), asked.stream_BL], dim=1),
        )


def _nth(is_masked_Un: Tensor, view: int) -> Tensor:
    return is_masked_Un[view] if view < len(is_masked_Un) else torch.zeros_like(is_masked_Un[0])


@dataclass(frozen=True)
class BlockwiseEstimator:
    """Estimates log p(target | prompt) as a sum over blocks, each by `how`; blocks begin at multiples of `block_size`.

    Attributes:
        how: samples, seed, rows per forward, guidance. Where a block has no more masks than samples, its bound is
            exact.
        block_size: tokens of a block.
        halves: see `BlockDiffusion`. Then prompts are computed anew in every forward.
        shares: False: they are in any case.

    Source: BD3-LM (Arriola et al. 2025), eq. 4 and 5, with counts in place of times inside a block.
    """

    how: LikelihoodEstimator
    block_size: int
    halves: bool = False
    shares: bool = True

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
        for chunk, given in self._given(denoiser, list(self._chunks(targets)), device):
            parts = [self._tokens(denoiser, chunk, copies, given, device) for copies in self._copies(chunk)]
            row_n, copy_n, column_n, nll_n = (torch.cat(part) for part in zip(*parts, strict=True))
            for row, target in enumerate(chunk):
                own_n = row_n == row
                yield target.index, self._estimate(target, copy_n[own_n], column_n[own_n], nll_n[own_n])

    def _given(
        self, denoiser: Denoiser, chunks: list[list[_Target]], device: torch.device | str
    ) -> Iterator[tuple[list[_Target], list[_Given]]]:
        """Each chunk with its prompts in a cache, and with guidance in a second one; none where it is used once."""
        size, last, given = self.block_size, list[Prompt](), list[_Given]()
        of_chunk = [[tuple(target.ids[: target.start // size * size]) for target in chunk] for chunk in chunks]
        new_cache = getattr(denoiser, "new_cache", None) if self.shares and not self.halves else None
        for chunk, prompts, following in zip(chunks, of_chunk, [*of_chunk, []][1:], strict=True):
            copies, longest = self._copies(chunk), max(map(len, prompts))
            is_used_again = len(copies) > 1 or prompts in (last, following) or len(set(prompts)) < len(prompts)
            # beside many copies a short prompt costs less than looking it up in all of them
            is_long = 2 * longest >= len(copies[0]) * (max(len(target.ids) for target in chunk) - longest)
            if new_cache is None or longest == 0 or not (is_used_again and is_long):
                given = []
            elif prompts != last or not given:
                hidden = [None, self.how.mask_token_id][: 2 if self.how.guidance_scale else 1]
                given = [_Given(denoiser, new_cache, size, device, prompts, ids) for ids in hidden]
            yield chunk, given
            last = prompts

    def _copies(self, chunk: list[_Target]) -> list[range]:
        """The copies of each forward."""
        step = 1 if self.halves else max(1, self.how.batch_size // len(chunk))
        return [range(start, start + step) for start in range(0, chunk[0].views, step)]

    def _target(self, index: int, number: int, prompt: Sequence[int], target: Sequence[int]) -> _Target:
        start, end = len(prompt), len(prompt) + len(target)
        edges = [start, *range((start // self.block_size + 1) * self.block_size, end, self.block_size), end]
        spans = enumerate(zip(edges, edges[1:], strict=False))
        blocks = [self.how.masks(last - first, number, block) for block, (first, last) in spans]
        return _Target(index, [*prompt, *target], start, [masks for masks in blocks if masks is not None])

    def _chunks(self, targets: list[_Target]) -> Iterator[list[_Target]]:
        """Targets with the same number of copies, as many as fill a forward; those of one prompt come together."""
        by_views: dict[int, list[_Target]] = {}
        ordered = sorted(targets, key=lambda target: (-target.start, target.ids[: target.start], -len(target.ids)))
        for target in ordered:
            by_views.setdefault(target.views, []).append(target)
        for views, group in by_views.items():
            rows = max(1, self.how.batch_size // views)
            yield from (group[start : start + rows] for start in range(0, len(group), rows))

    @torch.no_grad()
    def _tokens(
        self,
        denoiser: Denoiser,
        chunk: list[_Target],
        copies: range,
        given: list[_Given],
        device: torch.device | str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each masked token its row, copy, column and cross-entropy."""
        batch = _batch(chunk)
        masked_VBL = torch.zeros(len(copies), *batch.x0_BL.shape, dtype=torch.bool)
        for row, target in enumerate(chunk):
            for view, copy in enumerate(copies):
                masked_VBL[view, row, : len(target.ids)] = target.masked(copy)
        view_n, row_n, column_n = masked_VBL.nonzero(as_tuple=True)
        nll_n = self._nll(denoiser, batch, masked_VBL, given, device)
        return row_n, view_n + copies.start, column_n, nll_n.double().cpu()

    def _nll(
        self, denoiser: Denoiser, batch: Batch, masked_VBL: Tensor, given: list[_Given], device: torch.device | str
    ) -> Tensor:
        objective = BlockDiffusion(self.how.mask_token_id, block_size=self.block_size, halves=self.halves)
        groups = objective.groups(batch)
        if given:
            still_BL = torch.arange(batch.x0_BL.shape[1]) >= given[0].length_B[:, None]
            groups = replace(groups, clean_BL=groups.clean_BL & still_BL)
        one_G = torch.ones(len(groups.sample_G))
        views = [View(is_masked_BL, one_G, one_G) for is_masked_BL in masked_VBL]
        noise = objective.laid_out(batch, groups, views)
        if given:
            noise = replace(noise, attention=given[0].attention(noise.attention, *noise.xt_BL.shape))
        noise = map_tensors(noise, methodcaller("to", device))

        def ask(tokens_BM: Tensor, known: list[_Given], **wanted: Tensor) -> DenoiserOutput:
            return denoiser(
                tokens_BM,
                attention=noise.attention,
                positions=noise.positions_BL,
                cache=known[0].place(tokens_BM.shape[1]) if known else None,
                logits_at=noise.masked_at,
                **wanted,
            )

        if not self.how.guidance_scale:
            nll = ask(noise.xt_BL, given, targets=noise.targets).nll
            assert nll is not None, "a denoiser given targets returns their negative log-likelihood"
            return nll
        hidden_BL = torch.where(batch.may_noise_BL, batch.x0_BL, self.how.mask_token_id)
        bare = objective.laid_out(replace(batch, x0_BL=hidden_BL), groups, views)
        with_it, without = ask(noise.xt_BL, given).logits, ask(bare.xt_BL.to(device), given[1:]).logits
        assert with_it is not None and without is not None, "a denoiser given no targets returns logits"
        return cross_entropy(guided(with_it, without, self.how.guidance_scale), noise.targets)

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
