"""Which time t each sample is noised at, and how many tokens are masked where the count is fixed instead.

Everything is a function of the seed and of the sample's number in the run's visiting order. Schedules, tokens and
models are unknown here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32, Float64, Int, Int64
from torch import Tensor

from unmask.diffusion.keys import Purpose, uniforms

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio
_ROOT = np.uint64(0x6A09E667F3BCC909)  # 2**64 times the fraction of the root of 2


def low_discrepancy(visit_S: Int[Tensor, " S"], *, seed: int, epsilon: float) -> Float32[Tensor, " S"]:
    """Times of a golden-ratio Kronecker sequence: any run of consecutive visits covers (0, 1) evenly.

    t = epsilon + (1 - epsilon) frac(u0 + visit / golden ratio), u0 from the seed. Each single t is uniform over seeds,
    so estimates stay unbiased; the spread over a batch is what falls.

    Args:
        visit_S: int64 `[S]`, numbers in the run's visiting order, at least 0; exact for every int64.
        seed: the run's seed.
        epsilon: smallest time.

    Returns:
        float32 `[S]` in [epsilon, 1], never 0, on the CPU.
    """
    return _interval(_fraction(_kronecker(visit_S, seed)), epsilon)


def iid(visit_S: Int[Tensor, " S"], *, seed: int, epsilon: float) -> Float32[Tensor, " S"]:
    """Independent times, one per visit; arguments and result as in `low_discrepancy`."""
    drawn = [uniforms(1, seed=seed, purpose=Purpose.TIME, key=(visit, 1, 0)) for visit in map(int, visit_S)]
    u_S = torch.cat([torch.empty(0, dtype=torch.float64), *drawn])
    return _interval(u_S, epsilon)


TIME_SAMPLING: dict[str, Callable[..., Tensor]] = {"low_discrepancy": low_discrepancy, "iid": iid}


def per_block(
    visit_n: Int[Tensor, " n"],
    place_n: Int[Tensor, " n"],
    blocks_n: Int[Tensor, " n"],
    *,
    seed: int,
    interval: tuple[float, float] = (0.0, 1.0),
    views: int = 1,
    sampling: Literal["low_discrepancy", "iid"] = "low_discrepancy",
) -> Float32[Tensor, "{views} n"]:
    """One time per block and view: each has its own of as many equal cells as a sample has blocks and views.

    All blocks of a sample stand at the same place in their cells; from visit to visit that place follows the golden
    sequence and the cells rotate along another one. So times are even inside a sample, over consecutive samples, and
    for each block by itself; of one block, the views lie 1 / views apart. A single block and view get the times of
    `low_discrepancy` (or `iid`).

    Args:
        visit_n: int64; visit of the sample that each of the n blocks belongs to, as in `low_discrepancy`.
        place_n: int64; which block of its sample this is, from 0.
        blocks_n: int64; how many blocks its sample has.
        seed: the run's seed.
        interval: smallest and largest time.
        views: noisy views of each block.
        sampling: "iid": all independent.

    Returns:
        float32 `[views, n]`, on the CPU, never 0.

    Source: the antithetic sampling and the clipped intervals of BD3-LM (Arriola et al. 2025), made stateless.
    """
    cells_n, view_V1 = blocks_n * views, torch.arange(views)[:, None]
    cell_Vn = place_n + blocks_n * view_V1
    if sampling == "iid":
        u_Vn = _independent(visit_n, cells_n, cell_Vn, seed)
    else:
        turned_n = (_fraction(_kronecker(visit_n, seed, _ROOT, place=2)) * cells_n).long()
        u_Vn = ((cell_Vn + turned_n) % cells_n + _fraction(_kronecker(visit_n, seed))) / cells_n
    return _interval(u_Vn, *interval)


def _independent(visit_n: Tensor, cells_n: Tensor, cell_Vn: Tensor, seed: int) -> Tensor:
    drawn: dict[tuple[int, int], Tensor] = {}
    u_Vn = torch.empty(cell_Vn.shape, dtype=torch.float64)
    for index, key in enumerate(zip(map(int, visit_n), map(int, cells_n), strict=True)):
        if key not in drawn:
            drawn[key] = uniforms(key[1], seed=seed, purpose=Purpose.TIME, key=(key[0], 1, 0))
        u_Vn[:, index] = drawn[key][cell_Vn[:, index]]
    return u_Vn


def of_copies(
    row_n: Int[Tensor, " n"], place_n: Int[Tensor, " n"], blocks_n: Int[Tensor, " n"], *, copies: int, seed: int
) -> Float64[Tensor, "{copies} n"]:
    """Times of each block of each row of a fixed set, all of whose rows are noised `copies` times.

    Of one block, each copy has a time in another of as many equal cells, the first in the lowest. Places in the cells
    are even over the blocks of a row and over all rows. Copies in neighbouring cells, and neighbouring rows, stand at
    mirrored places, so that together they see any straight trend exactly (antithetic sampling). Each single time is
    uniform in its cell over seeds.

    Args:
        row_n: int64; row of the set that each of the n blocks belongs to.
        place_n, blocks_n: as in `per_block`.
        copies: at least 1.
        seed: of the noise.

    Returns:
        float64 `[copies, n]`, on the CPU, never 0.
    """
    time_Cn = per_block(row_n // 2, place_n, blocks_n, seed=seed, views=copies).double()
    cell_Cn = (time_Cn * copies).long().clamp(max=copies - 1)
    place_Cn = time_Cn * copies - cell_Cn
    return in_turns(cell_Cn, torch.where(row_n % 2 == 1, 1 - place_Cn, place_Cn), copies).sort(0).values


def in_turns(cell: Int64[Tensor, "..."], place: Float64[Tensor, "..."], cells: int) -> Float64[Tensor, "..."]:
    """The time at a place (0 to 1) in one of as many equal cells of (0, 1); in every other cell, at 1 - that place.

    At uniform places each time is uniform in its cell. Two neighbours at one place see any straight trend exactly.
    """
    return (cell + torch.where(cell % 2 == 1, 1 - place, place)) / cells


def counts_at(
    time_n: Float64[Tensor, "*#shape"], length_n: Int64[Tensor, "*#shape"], *, fewer: float
) -> tuple[Int64[Tensor, "*#shape"], Float64[Tensor, "*#shape"]]:
    """How many of `length` tokens are masked at a time, and how much more often that count is to be counted.

    Up to a count k lies a share (k / length) ** (1 / fewer) of all times, so that low counts are more frequent than
    high ones; the ratio is that of a uniform count's probability to this one's (importance sampling). A mean over k
    masked tokens spreads as 1 / k where tokens differ, for which 2 would be best, and not with k where contexts do, for
    which 1 (all counts alike) would be.

    Args:
        time_n: float64, from 0 to 1. length_n: int64, at least 1; of a shape that broadcasts.
        fewer: at least 1.

    Returns:
        counts, int64, 1 to length; and ratios, float64, whose mean over uniform times is 1 / length at each count.
    """
    count_n = torch.minimum((length_n * time_n**fewer).long() + 1, length_n)
    up_to_n, below_n = (((count_n - less) / length_n.double()) ** (1 / fewer) for less in (0, 1))
    return count_n, 1 / (length_n * (up_to_n - below_n))


def _kronecker(visit_S: Tensor, seed: int, step: np.uint64 = _GOLDEN, *, place: int = 0) -> npt.NDArray[np.uint64]:
    # Fixed-point fractions in units of 2**-64: overflow is the "modulo 1", so nothing is lost at large visits.
    first = np.uint64(int(uniforms(1, seed=seed, purpose=Purpose.TIME, key=(0, place, 0)).item() * 2**64))
    return first + visit_S.cpu().numpy().astype(np.uint64) * step


def _fraction(fixed: npt.NDArray[np.uint64]) -> Tensor:
    return torch.tensor(fixed.astype(np.float64)) * 2.0**-64


def _interval(u: Tensor, low: float, high: float = 1.0) -> Tensor:
    # The half step keeps t off 0, where the loss weight has a pole, even with a lowest time of 0.
    return (low + (high - low) * (u + 2.0**-65)).float()
