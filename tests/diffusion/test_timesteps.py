from __future__ import annotations

import math

import pytest
import torch

from unmask.diffusion.keys import Purpose, uniforms
from unmask.diffusion.timesteps import TIME_SAMPLING, counts_at, iid, in_turns, low_discrepancy, of_copies, per_block

GOLDEN = (math.sqrt(5) - 1) / 2


def discrepancy(u: torch.Tensor) -> float:
    """Star discrepancy of points in [0, 1]."""
    points = u.double().sort().values
    rank = torch.arange(len(points) + 1, dtype=torch.float64) / len(points)
    return float(torch.maximum(rank[1:] - points, points - rank[:-1]).max())


@pytest.mark.parametrize("first", [0, 1000, 2**53 + 1, 2**62 - 100])
@pytest.mark.parametrize("count", [8, 64, 1000])
def test_consecutive_visits_cover_the_interval_evenly(first: int, count: int):
    u = low_discrepancy(torch.arange(count) + first, seed=3, epsilon=0.0)
    assert discrepancy(u) < (1 + math.log(count)) / count
    # Three-distance theorem: the gaps of a Kronecker sequence take at most three lengths.
    points = u.sort().values
    gaps = torch.cat([points.diff(), points[:1] + 1 - points[-1:]])
    assert len(gaps.mul(1e5).round().unique()) <= 3 * 2  # float32 may split a length in two


@pytest.mark.parametrize("visit", [0, 7, 2**53, 2**62])
def test_each_visit_steps_by_the_golden_ratio(visit: int):
    pair = low_discrepancy(torch.tensor([visit, visit + 1]), seed=0, epsilon=0.0)
    assert float(pair.diff() % 1) == pytest.approx(GOLDEN, abs=1e-6)


@pytest.mark.parametrize("name", ["low_discrepancy", "iid"])
def test_a_time_depends_on_seed_and_visit_alone(name: str):
    draw = TIME_SAMPLING[name]
    visits = torch.arange(20)
    whole = draw(visits, seed=5, epsilon=1e-3)
    assert whole.dtype == torch.float32
    assert torch.equal(draw(visits.flip(0)[:7], seed=5, epsilon=1e-3), whole.flip(0)[:7])
    assert not torch.equal(draw(visits, seed=6, epsilon=1e-3), whole)
    assert draw(visits[:0], seed=5, epsilon=1e-3).shape == (0,)


@pytest.mark.parametrize("name", ["low_discrepancy", "iid"])
def test_a_time_is_uniform_over_seeds(name: str):
    times = torch.cat([TIME_SAMPLING[name](torch.tensor([17]), seed=seed, epsilon=0.0) for seed in range(2000)])
    assert discrepancy(times) < 1.95 / 2000**0.5  # Kolmogorov-Smirnov, p = 0.001


def test_iid_times_are_uncorrelated():
    times = iid(torch.arange(4000), seed=0, epsilon=0.0)
    centred = (times - 0.5) * 12**0.5
    assert abs(float((centred[1:] * centred[:-1]).mean())) < 4 / 4000**0.5
    assert discrepancy(times) < 1.95 / 4000**0.5


def test_epsilon_is_the_smallest_time():
    for draw in TIME_SAMPLING.values():
        times = draw(torch.arange(5000), seed=1, epsilon=0.2)
        assert times.min() >= 0.2 and times.min() < 0.202 and times.max() <= 1 and times.max() > 0.998
        assert (draw(torch.arange(5000), seed=1, epsilon=0.0) > 0).all()


def of_blocks(samples: int, blocks: int, *, first: int = 0, views: int = 1, seed: int = 2, **how) -> torch.Tensor:
    """Times of samples with equally many blocks, `[views, samples, blocks]`."""
    visit_n = (first + torch.arange(samples)).repeat_interleave(blocks)
    place_n, blocks_n = torch.arange(blocks).repeat(samples), torch.full((samples * blocks,), blocks)
    times = per_block(visit_n, place_n, blocks_n, seed=seed, views=views, **how)
    assert times.dtype == torch.float32
    return times.view(views, samples, blocks)


@pytest.mark.parametrize(("blocks", "views"), [(1, 1), (5, 1), (8, 1), (34, 1), (8, 2), (1, 4)])
def test_times_of_blocks_are_even_within_and_across_samples(blocks: int, views: int):
    times = of_blocks(64, blocks, views=views)
    for sample in times.transpose(0, 1).flatten(1):
        cells = (sample.double() * blocks * views).floor().long()
        assert sorted(cells.tolist()) == list(range(blocks * views))
    for block in times.permute(0, 2, 1).flatten(0, 1):
        assert discrepancy(block) < 0.1
    assert discrepancy(times[:, :16].flatten()) < 5 / (16 * blocks * views)
    # the views of a block lie evenly around the circle
    for view, later in enumerate(times):
        torch.testing.assert_close((later - times[0]) % 1, torch.full_like(later, view / views), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampling", ["low_discrepancy", "iid"])
def test_the_times_of_one_block_are_those_of_its_sample(sampling: str):
    times = of_blocks(20, 1, first=2**62, sampling=sampling, interval=(1e-3, 1.0))
    assert torch.equal(times.flatten(), TIME_SAMPLING[sampling](2**62 + torch.arange(20), seed=2, epsilon=1e-3))


@pytest.mark.parametrize("sampling", ["low_discrepancy", "iid"])
def test_the_time_of_a_block_is_uniform_over_seeds_and_of_its_sample_alone(sampling: str):
    drawn = [of_blocks(1, 6, first=17, seed=seed, sampling=sampling) for seed in range(1000)]
    for block in torch.cat(drawn)[:, 0].T:
        assert discrepancy(block) < 1.95 / 1000**0.5
    assert torch.equal(of_blocks(20, 6, sampling=sampling)[:, 17], of_blocks(1, 6, first=17, sampling=sampling)[:, 0])
    assert of_blocks(1, 6, sampling=sampling, views=2).unique().numel() == 12


def test_clipped_times_stay_inside():
    times = of_blocks(64, 5, interval=(0.3, 0.8))
    assert 0.3 <= times.min() < 0.31 and 0.79 < times.max() <= 0.8


@pytest.mark.parametrize(("blocks", "copies"), [(1, 1), (1, 4), (6, 3), (8, 2), (5, 1)])
def test_copies_lie_in_cells_of_their_own_and_the_set_is_even(blocks: int, copies: int):
    rows = 40
    row_n, place_n = torch.arange(rows).repeat_interleave(blocks), torch.arange(blocks).repeat(rows)
    time_Cn = of_copies(row_n, place_n, torch.full_like(row_n, blocks), copies=copies, seed=6)
    assert time_Cn.dtype == torch.float64 and time_Cn.min() > 0
    cells_Cn = (time_Cn * copies).long()
    assert torch.equal(cells_Cn, torch.arange(copies)[:, None].expand_as(cells_Cn))
    assert discrepancy(time_Cn.flatten()) < 4 / (rows * blocks * copies) ** 0.9
    # a straight trend: nothing is left in two neighbouring rows together
    means = time_Cn.view(copies, rows // 2, 2 * blocks).mean((0, 2))
    torch.testing.assert_close(means, torch.full_like(means, 0.5), atol=1e-6, rtol=0)
    alone = of_copies(row_n[-blocks:], place_n[:blocks], torch.full((blocks,), blocks), copies=copies, seed=6)
    assert torch.equal(alone, time_Cn[:, -blocks:])


def test_the_time_of_a_copy_is_uniform_in_its_cell_over_seeds():
    row_n, zero_n = torch.tensor([4, 5]), torch.zeros(2, dtype=torch.int64)
    drawn = [of_copies(row_n, zero_n, zero_n + 1, copies=3, seed=seed) for seed in range(1000)]
    for number, copy in enumerate(torch.stack(drawn).permute(1, 2, 0).flatten(0, 1)):
        assert discrepancy(3 * copy - number // 2) < 1.95 / 1000**0.5


def test_a_time_lies_in_each_cell_and_neighbours_undo_a_trend():
    for place in (0.0, 0.3, 0.99):
        time_S = in_turns(torch.arange(6), torch.full((6,), place).double(), 6)
        assert (time_S * 6).long().tolist() == [0, 1, 2, 3, 4, 5] or place == 0.0
        assert float(time_S.mean()) == pytest.approx(0.5)
    places = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
    seen = in_turns(torch.arange(5), places, 5)
    # each of them goes through its whole cell
    assert torch.allclose(seen.amin(0), torch.arange(5).double() / 5)
    assert torch.allclose(seen.amax(0), seen.amin(0) + 0.2)


def test_every_count_is_worth_the_same_however_often_it_is_drawn():
    times, lengths = 200_000, torch.tensor([[1], [2], [7], [100]])
    count, ratio = counts_at((torch.arange(times, dtype=torch.float64) + 0.5) / times, lengths, fewer=1.5)
    for row, length in enumerate(lengths.flatten().tolist()):
        worth = torch.bincount(count[row], ratio[row], minlength=length + 1) / times
        assert worth[0] == 0 and torch.allclose(worth[1:], torch.full((length,), 1 / length).double(), rtol=5e-3)
        drawn = torch.bincount(count[row], minlength=length + 1)[1:]
        assert (drawn.diff() <= 1).all()
    count, ratio = counts_at(torch.tensor([0.0, 1.0]).double(), torch.tensor(9), fewer=1.75)
    assert count.tolist() == [1, 9] and ratio.isfinite().all()


def test_no_time_is_zero_even_at_the_visit_where_the_sequence_meets_it():
    word = 2**64
    step = (math.isqrt(5 * word**2) - word) // 2 | 1  # the golden ratio's fraction of 2**64, an odd number
    for seed in range(50):
        first = low_discrepancy_start(seed)
        visit = -first * pow(step, -1, word) % word
        if visit < 2**63:
            time = low_discrepancy(torch.tensor([visit]), seed=seed, epsilon=0.0).item()
            assert 0 < time < 1e-15
            return
    pytest.fail("no seed has such a visit")


def low_discrepancy_start(seed: int) -> int:
    """The sequence's first value in units of 2**-64."""
    return int(uniforms(1, seed=seed, purpose=Purpose.TIME, key=(0, 0, 0)).item() * 2**64)
