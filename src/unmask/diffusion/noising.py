"""Corrupting clean tokens: which positions are noised, and what they become.

A position's number depends on its sample and its place in the sample only. Nothing here knows about rows of a dataset,
padding policies or networks.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from unmask.diffusion.keys import Purpose, uniforms
from unmask.types import SampleKeys


def sample_uniforms(sample_BL: Int[Tensor, "B L"], *, keys: SampleKeys, seed: int) -> Float64[Tensor, "B L"]:
    """One number per position: the j-th token of a sample gets the j-th number of the sample's own stream.

    So packing, padding on either side and batch composition change nothing.

    Args:
        sample_BL: int64; index into `keys` of the sample a position belongs to, -1 for padding.
        keys: identity of the S samples; the stream is named by (row, epoch, view).
        seed: the run's seed.

    Returns:
        float64 `[B, L]` in [0, 1); 1 at padding. On the CPU.
    """
    flat = sample_BL.reshape(-1).cpu()
    by_sample = torch.argsort(flat, stable=True)[int((flat < 0).sum()) :]
    counts = torch.bincount(flat[by_sample], minlength=len(keys.row_S))
    streams = [
        uniforms(int(count), seed=seed, purpose=Purpose.MASK, key=(int(row), int(epoch), keys.view))
        for count, row, epoch in zip(counts, keys.row_S, keys.epoch_S, strict=True)
    ]
    numbers = torch.ones(flat.shape, dtype=torch.float64)
    numbers[by_sample] = torch.cat([numbers[:0], *streams])
    return numbers.view(sample_BL.shape)


def draw_mask(
    batch_sample_BL: Int[Tensor, "B L"],
    may_noise_BL: Bool[Tensor, "B L"],
    mask_prob_G: Float[Tensor, " G"],
    *,
    keys: SampleKeys,
    seed: int,
    group_BL: Int[Tensor, "B L"] | None = None,
) -> Bool[Tensor, "B L"]:
    """Noise each position that may be noised, independently, with its group's probability.

    Args:
        batch_sample_BL: int64; index of the sample a position belongs to, -1 for padding.
        may_noise_BL: bool; positions that may be noised.
        mask_prob_G: float `[G]`; 1 - alpha(t) of each group.
        keys: identity of the S samples.
        seed: the run's seed.
        group_BL: int64; which tokens share a time, -1 for none; None: those of a sample.

    Returns:
        bool `[B, L]`, on the CPU.
    """
    numbers_BL = sample_uniforms(batch_sample_BL, keys=keys, seed=seed)
    group_BL = batch_sample_BL if group_BL is None else group_BL
    return (numbers_BL < mask_prob_G.double()[group_BL.clamp(min=0)]) & may_noise_BL & (group_BL >= 0)


def exact_count_groups(
    count_G: Int[Tensor, " G"],
    group_BL: Int[Tensor, "B L"],
    may_noise_BL: Bool[Tensor, "B L"],
    uniforms_BL: Float[Tensor, "B L"],
    first_G: Int[Tensor, " G"] | None = None,
) -> Bool[Tensor, "B L"]:
    """Mask exactly `count` of the noisable positions of each group: those with the smallest numbers.

    Args:
        count_G: int64; how many; all where there are fewer.
        group_BL: int64; group of a position, wherever its members stand; -1 for none.
        may_noise_BL: bool; positions that may be masked.
        uniforms_BL: float; independent uniform numbers make every subset of that size equally likely.
        first_G: int64; begin behind so many of the smallest numbers, and after the largest go on with the smallest.
    """
    place_n = (may_noise_BL & (group_BL >= 0)).flatten().nonzero().squeeze(1)
    place_n = place_n[uniforms_BL.flatten()[place_n].argsort(stable=True)]
    group_n = group_BL.flatten()[place_n]
    by_group = group_n.argsort(stable=True)
    place_n, group_n = place_n[by_group], group_n[by_group]
    members_G = torch.bincount(group_n, minlength=len(count_G))
    rank_n = torch.arange(len(place_n)) - (members_G.cumsum(0) - members_G)[group_n]
    if first_G is not None:
        rank_n = (rank_n - first_G[group_n]) % members_G[group_n]
    is_masked_BL = torch.zeros_like(may_noise_BL)
    is_masked_BL.view(-1)[place_n[rank_n < count_G[group_n]]] = True
    return is_masked_BL


def exact_count_mask(
    count_B: Int[Tensor, " B"], target_BL: Bool[Tensor, "B L"], uniforms_BL: Float[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """Mask exactly `count` of the target positions of each row: those with the smallest numbers.

    Args:
        count_B: int64; how many; all targets where there are fewer.
        target_BL: bool; positions that may be masked.
        uniforms_BL: float; independent uniform numbers make every subset of that size equally likely.
    """
    order_BL = uniforms_BL.masked_fill(~target_BL, torch.inf).argsort(dim=1, stable=True)
    rank_BL = order_BL.argsort(dim=1)
    return (rank_BL < count_B[:, None]) & target_BL


def absorb(x0_BL: Int[Tensor, "B L"], is_masked_BL: Bool[Tensor, "B L"], mask_token_id: int) -> Int[Tensor, "B L"]:
    """Replace the masked positions by the mask token; ids keep their dtype."""
    return x0_BL.masked_fill(is_masked_BL, mask_token_id)


def corrupt_uniform(
    x0_BL: Int[Tensor, "B L"], is_noised_BL: Bool[Tensor, "B L"], uniforms_BL: Float[Tensor, "B L"], vocab_size: int
) -> Int[Tensor, "B L"]:
    """Replace the noised positions by ids drawn uniformly from the vocabulary, the clean id among them (D3PM).

    Args:
        x0_BL: int64 clean ids.
        is_noised_BL: bool; positions to replace.
        uniforms_BL: float in [0, 1), independent of the numbers that chose the positions.
        vocab_size: ids are drawn from 0..vocab_size - 1.
    """
    drawn_BL = (uniforms_BL.double() * vocab_size).long().clamp(max=vocab_size - 1)
    return torch.where(is_noised_BL, drawn_BL.to(x0_BL.dtype), x0_BL)
