"""Block diffusion: masked diffusion inside blocks, given everything before them (BD3-LM, SDAR, LLaDA2).

A row is fed as its noisy blocks followed by the clean tokens before them, so that all blocks are learned at once.
Blocks in which nothing is learned, prompts above all, are fed clean only, and clean tokens that nobody sees are not
fed. Blocks of one token are an autoregressive model, one block as long as the row is masked diffusion. How a network
computes a two-stream pattern is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.diffusion.blocks import block_ids
from unmask.diffusion.noising import absorb
from unmask.errors import ConfigError
from unmask.objectives.masked import MaskedDiffusion, MaskedNoise, told
from unmask.objectives.views import Groups, Masking, View, members, places
from unmask.types import AttentionSpec, Batch, SampleKeys

CLEAN = 1  # among the streams of an `AttentionSpec`


@dataclass(frozen=True)
class Blocks(Groups):
    """The blocks of a batch that are learned; and where every token stands.

    Attributes:
        document_BL: int64; document, counted over the whole batch, -1 at padding. block_BL: int64; block inside it.
        positions_BL: int64; position inside it.
        noisy_BL, clean_BL: bool; what is fed noisy, what is fed clean.
        single: no row holds two documents.
    """

    document_BL: Int[Tensor, "B L"]
    block_BL: Int[Tensor, "B L"]
    positions_BL: Int[Tensor, "B L"]
    noisy_BL: Bool[Tensor, "B L"]
    clean_BL: Bool[Tensor, "B L"]
    single: bool


@dataclass(frozen=True)
class BlockDiffusion(MaskedDiffusion):
    """Block diffusion (BD3-LM, arXiv 2503.09573, eq. 4; with several blocks' sizes, LLaDA2.0, arXiv 2512.15745).

    Attributes:
        block_size: tokens of a block; blocks begin at multiples of it in each document.
        curriculum: (size, updates) pairs: other sizes for the first updates, one after the other.
        halves: feed whole rows in both streams, [noisy; clean], in which a token's clean twin stands half a row behind.
        others: see `MaskedDiffusion`; the copies of a sample are further noisy streams beside the same clean one.

    Raises:
        ConfigError: a setting is out of range, or has no meaning for blocks.
    """

    masking: Masking = "exact_count"
    block_size: int = 32
    curriculum: tuple[tuple[int, int], ...] = ()
    halves: bool = False

    def __post_init__(self) -> None:
        if self.loss_weight == "cart":
            raise ConfigError(
                "loss_weight cart weighs a token by the clean ones around it, and in objective block those behind its "
                "block are hidden. Use elbo or uniform."
            )
        if self.halves and (self.views > 1 or self.complementary):
            raise ConfigError(
                "noisy_views and complementary_masks do not work with objective block for a checkpoint whose "
                "predictions are shifted (Dream). Leave them out."
            )
        if min([self.block_size, *(size for size, _ in self.curriculum)]) < 1:
            raise ConfigError("a block holds at least 1 token. Raise block_size, and the sizes of block_curriculum.")

    def sizes(self, keys: SampleKeys) -> Int[Tensor, " S"]:
        """Tokens per block of each sample, by the update it belongs to."""
        update_S = torch.zeros_like(keys.visit_S) if keys.update_S is None else keys.update_S
        size_S, end = torch.full_like(update_S, self.block_size), sum(updates for _, updates in self.curriculum)
        for size, updates in reversed(self.curriculum):
            size_S = size_S.masked_fill(update_S < end, size)
            end -= updates
        return size_S

    def groups(self, batch: Batch) -> Blocks:
        """The blocks that hold anything to learn."""
        starts_BL, document_BL = _documents(batch)
        positions_BL = batch.positions_BL
        if positions_BL is None:
            positions_BL = torch.arange(batch.x0_BL.shape[1]).expand_as(batch.x0_BL)
        block_BL = torch.zeros_like(positions_BL)
        size_BL = self.sizes(batch.keys)[batch.sample_BL.clamp(min=0)]
        for size in sorted({self.block_size, *(size for size, _ in self.curriculum)}):
            block_BL = block_BL.where(size_BL != size, block_ids(positions_BL, size))
        run_BL = _runs(starts_BL | _changes(block_BL))
        first_R = _changes(run_BL.view(1, -1)).flatten().nonzero().squeeze(1)
        learned_R = members(run_BL, batch.may_noise_BL & (document_BL >= 0), first_R)
        live_R = learned_R > 0
        group_R = torch.where(live_R, live_R.cumsum(0) - 1, -1)
        sample_G, document_G, block_G = (x.flatten()[first_R[live_R]] for x in (batch.sample_BL, document_BL, block_BL))
        last_D = torch.zeros(1 + max(0, int(document_BL.max())), dtype=torch.int64)
        last_D = last_D.scatter_reduce(0, document_G, block_G, "amax")
        group_BL = group_R[run_BL].masked_fill(document_BL < 0, -1)
        place_G, groups_G = places(sample_G)
        return Blocks(
            group_BL=group_BL,
            sample_G=sample_G,
            place_G=place_G,
            groups_G=groups_G,
            size_G=learned_R[live_R],
            document_BL=document_BL,
            block_BL=block_BL,
            positions_BL=positions_BL,
            noisy_BL=torch.ones_like(starts_BL) if self.halves else group_BL >= 0,
            clean_BL=torch.ones_like(starts_BL) if self.halves else _seen(document_BL, block_BL, last_D),
            single=bool((starts_BL & (document_BL >= 0)).sum(1).max() <= 1),
        )

    def laid_out(self, batch: Batch, groups: Groups, views: list[View]) -> MaskedNoise:
        """The views as streams of one row: the noisy ones one after the other, then the clean one."""
        assert isinstance(groups, Blocks)
        masked, length = self.masked(batch, groups, views), batch.x0_BL.shape[1]
        columns = _Columns.of(groups, len(views))
        noisy = [absorb(batch.x0_BL, view.is_masked_BL, self.mask_token_id) for view in views]
        row, column = masked.place // length, masked.place % length
        return MaskedNoise(
            xt_BL=columns.take(torch.cat([*noisy, batch.x0_BL], dim=1)),
            attention=columns.attention(groups),
            positions_BL=columns.repeated(groups.positions_BL),
            masked_at=row * columns.width + columns.fed_BX[row, masked.view * length + column],
            **told(batch, groups, views, masked),
        )


@dataclass(frozen=True)
class _Columns:
    """What is fed, as columns of [view 0; view 1; ...; clean] without those that nobody needs.

    Attributes:
        from_BM: int64; the column that each fed one is taken from, -1 for padding.
        fed_BX: int64; where each column is fed. views: noisy streams.
    """

    from_BM: Int[Tensor, "B M"]
    fed_BX: Int[Tensor, "B X"]
    views: int

    @staticmethod
    def of(blocks: Blocks, views: int) -> _Columns:
        kept_BX = torch.cat([*[blocks.noisy_BL] * views, blocks.clean_BL], dim=1)
        fed_BX = kept_BX.cumsum(dim=1) - 1
        width = max(1, int(kept_BX.sum(dim=1).max()))
        from_BM = torch.full((len(kept_BX), width), -1)
        row, column = kept_BX.nonzero(as_tuple=True)
        from_BM[row, fed_BX[row, column]] = column
        return _Columns(from_BM, fed_BX, views)

    @property
    def width(self) -> int:
        return self.from_BM.shape[1]

    def take(self, values_BX: Int[Tensor, "B X"]) -> Int[Tensor, "B M"]:
        return values_BX.gather(1, self.from_BM.clamp(min=0))

    def repeated(self, values_BL: Int[Tensor, "B L"]) -> Int[Tensor, "B M"]:
        return self.take(values_BL.repeat(1, self.views + 1))

    def attention(self, blocks: Blocks) -> AttentionSpec | None:
        """Two streams; where nothing is fed clean, one block per document is left, which sees itself."""
        real_BM = self.from_BM >= 0
        document_BM = self.repeated(blocks.document_BL).masked_fill(~real_BM, -1)
        whole = blocks.single and bool((document_BM >= 0).all())
        document_BM = None if whole else document_BM
        if self.views == 1 and not blocks.clean_BL.any():
            return None if whole else AttentionSpec(document_BL=document_BM, packed=not blocks.single)
        numbers = [number + (number >= CLEAN) for number in range(self.views)]
        stream_X = torch.tensor([*numbers, CLEAN]).repeat_interleave(blocks.block_BL.shape[1])
        return AttentionSpec(
            "two_stream",
            document_BL=document_BM,
            packed=not blocks.single,
            block_BL=self.repeated(blocks.block_BL),
            stream_BL=self.take(stream_X.expand_as(self.fed_BX)),
        )


def _documents(batch: Batch) -> tuple[Bool[Tensor, "B L"], Int[Tensor, "B L"]]:
    """Where documents start, and their numbers over the whole batch, -1 at padding."""
    starts_BL = _changes(batch.sample_BL)
    if batch.attention is not None and batch.attention.document_BL is not None:
        starts_BL = starts_BL | _changes(batch.attention.document_BL)
    return starts_BL, _runs(starts_BL).masked_fill(batch.sample_BL < 0, -1)


def _changes(ids_BL: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """Where a row begins, or differs from the column before."""
    changes_BL = torch.ones_like(ids_BL, dtype=torch.bool)
    changes_BL[:, 1:] = ids_BL[:, 1:] != ids_BL[:, :-1]
    return changes_BL


def _runs(starts_BL: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    return (starts_BL.flatten().cumsum(0) - 1).view(starts_BL.shape)


def _seen(
    document_BL: Int[Tensor, "B L"], block_BL: Int[Tensor, "B L"], last_D: Int[Tensor, " D"]
) -> Bool[Tensor, "B L"]:
    """Tokens that stand before a block that is learned, in its document."""
    return (document_BL >= 0) & (block_BL < last_D[document_BL.clamp(min=0)])
