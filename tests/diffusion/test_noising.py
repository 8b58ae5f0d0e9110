from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from unmask.diffusion.noising import (
    absorb,
    corrupt_uniform,
    draw_mask,
    exact_count_groups,
    exact_count_mask,
    sample_uniforms,
)
from unmask.types import SampleKeys

LENGTHS = [5, 1, 9, 4]
ROWS = [101, 7, 33, 2**40]


def keys(rows: list[int], epoch: int = 0, view: int = 0) -> SampleKeys:
    index = torch.tensor(rows)
    return SampleKeys(torch.arange(len(rows)), index, torch.full_like(index, epoch), view)


def alone(row: int, length: int, **key: int) -> list[float]:
    return sample_uniforms(torch.zeros(1, length, dtype=torch.long), keys=keys([row], **key), seed=3)[0].tolist()


def placed(layout: list[list[int]], rows: list[int]) -> dict[int, list[float]]:
    """The numbers of each sample, collected from a batch where `layout` says which sample sits where."""
    sample_BL = torch.tensor(layout)
    numbers_BL = sample_uniforms(sample_BL, keys=keys(rows), seed=3)
    assert (numbers_BL[sample_BL < 0] == 1).all()
    return {row: numbers_BL[sample_BL == sample].tolist() for sample, row in enumerate(rows)}


def test_packing_padding_and_company_change_nothing():
    expected = {row: alone(row, length) for row, length in zip(ROWS, LENGTHS, strict=True)}
    width = 10
    right = [[s] * n + [-1] * (width - n) for s, n in enumerate(LENGTHS)]
    left = [[-1] * (width - n) + [s] * n for s, n in enumerate(LENGTHS)]
    packed = [[0] * 5 + [1] + [3] * 4, [2] * 9 + [-1]]
    assert placed(right, ROWS) == placed(left, ROWS) == placed(packed, ROWS) == expected
    other = placed([[1] * 9 + [0]], [33, 7][::-1])
    assert other == {7: expected[7], 33: expected[33]}
    assert alone(33, 20)[:9] == expected[33]


def test_row_epoch_view_and_seed_each_name_another_stream():
    sample_BL = torch.zeros(1, 6, dtype=torch.long)
    drawn = {
        tuple(sample_uniforms(sample_BL, keys=keys([row], epoch, view), seed=seed)[0].tolist())
        for row, epoch, view, seed in itertools.product([0, 1], repeat=4)
    }
    assert len(drawn) == 16


def test_a_mask_stays_where_it_may_be():
    sample_BL = torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1]])
    may_noise_BL = torch.tensor([[False, True, True, False, True, False, True, True]])
    full_BL = draw_mask(sample_BL, may_noise_BL, torch.ones(2), keys=keys([1, 2]), seed=0)
    assert torch.equal(full_BL, may_noise_BL & (sample_BL >= 0))
    assert not draw_mask(sample_BL, may_noise_BL, torch.zeros(2), keys=keys([1, 2]), seed=0).any()
    assert torch.equal(
        draw_mask(sample_BL, may_noise_BL, torch.tensor([1.0, 0.0]), keys=keys([1, 2]), seed=0),
        full_BL & (sample_BL == 0),
    )


def test_a_token_is_masked_when_its_number_is_below_the_probability():
    sample_BL = torch.arange(3)[:, None]
    p = sample_uniforms(sample_BL, keys=keys([4, 5, 6]), seed=0)[:, 0]
    may = torch.ones(3, 1, dtype=torch.bool)
    assert not draw_mask(sample_BL, may, p, keys=keys([4, 5, 6]), seed=0).any()
    assert draw_mask(sample_BL, may, p + 1e-15, keys=keys([4, 5, 6]), seed=0).all()


def test_what_may_not_be_noised_does_not_shift_the_rest():
    # Masking the prompt's loss or not must leave the noise of the answer alone.
    sample_BL = torch.zeros(1, 200, dtype=torch.long)
    everything = torch.ones(1, 200, dtype=torch.bool)
    answer = torch.arange(200)[None] >= 60
    p = torch.tensor([0.4])
    whole = draw_mask(sample_BL, everything, p, keys=keys([5]), seed=1)
    assert torch.equal(draw_mask(sample_BL, answer, p, keys=keys([5]), seed=1), whole & answer)


def test_more_noise_masks_a_superset():
    sample_BL = torch.zeros(1, 500, dtype=torch.long)
    may = torch.ones(1, 500, dtype=torch.bool)
    masks = [draw_mask(sample_BL, may, torch.tensor([p]), keys=keys([9]), seed=1) for p in (0.2, 0.5, 0.9)]
    assert all((small <= large).all() for small, large in itertools.pairwise(masks))


def test_exact_counts_are_exact_and_every_subset_is_equally_likely():
    rows = 6000
    numbers_BL = torch.rand(rows, 6, generator=torch.Generator().manual_seed(0))
    target_BL = torch.tensor([False, True, True, False, True, True]).expand(rows, 6)
    mask_BL = exact_count_mask(torch.full((rows,), 2), target_BL, numbers_BL)
    assert (mask_BL.sum(1) == 2).all() and not (mask_BL & ~target_BL).any()
    tally = Counter(tuple(row) for row in mask_BL.tolist())
    assert len(tally) == 6
    assert sum((n - rows / 6) ** 2 / (rows / 6) for n in tally.values()) < 20.5  # chi-square, 5 d.o.f., p = 0.001


def test_counts_differ_by_row_and_stop_at_the_targets():
    target_BL = torch.tensor([[True, True, True, False]] * 4)
    mask_BL = exact_count_mask(torch.tensor([0, 1, 3, 9]), target_BL, torch.full((4, 4), 0.5))
    assert mask_BL.sum(1).tolist() == [0, 1, 3, 3]


def test_counts_of_groups_are_exact_wherever_their_members_stand():
    generator = torch.Generator().manual_seed(0)
    group_BL = torch.tensor([[0, 1, 1, 2, -1, 1], [2, 2, 0, 0, 1, 3]])
    may_BL = torch.tensor([[True, True, False, True, True, True], [True, True, True, False, True, False]])
    tally = Counter()
    for _ in range(900):
        mask_BL = exact_count_groups(
            torch.tensor([2, 1, 0, 1]), group_BL, may_BL, torch.rand(2, 6, generator=generator)
        )
        assert not (mask_BL & ~may_BL).any() and (group_BL[mask_BL] != 2).all()
        assert mask_BL[group_BL == 0].tolist() == [True, True, False]
        tally[tuple(mask_BL[group_BL == 1].tolist())] += 1
    # one of three tokens, each as often
    assert len(tally) == 3 and sum((n - 300) ** 2 / 300 for n in tally.values()) < 13.8  # 2 d.o.f., p = 0.001


def test_masks_of_a_group_may_lie_end_to_end_on_a_circle():
    generator = torch.Generator().manual_seed(0)
    group_BL, may_BL = torch.tensor([[0, 0, 1, 0, 0, 0, 1]]), torch.tensor([[True] * 5 + [False, True]])
    numbers_BL, times = torch.rand(1, 7, generator=generator), torch.zeros(7)
    for count, first in ((3, 0), (2, 3), (3, 5)):
        counts_G, firsts_G = torch.tensor([count, 1]), torch.tensor([first, 1])
        mask_BL = exact_count_groups(counts_G, group_BL, may_BL, numbers_BL, firsts_G)
        assert mask_BL[group_BL == 0].sum() == count and mask_BL[group_BL == 1].sum() == 1
        times += mask_BL[0]
    assert times[[0, 1, 3, 4]].tolist() == [2, 2, 2, 2] and times[5] == 0


def test_a_group_is_masked_with_its_own_probability():
    sample_BL, group_BL = torch.zeros(1, 300, dtype=torch.long), torch.arange(300)[None] // 100 - 1
    may_BL, p = torch.ones(1, 300, dtype=torch.bool), torch.tensor([1.0, 0.3])
    drawn_BL = draw_mask(sample_BL, may_BL, p, keys=keys([5]), seed=1, group_BL=group_BL)
    whole_BL = draw_mask(sample_BL, may_BL, p[1:], keys=keys([5]), seed=1)
    assert drawn_BL[0, 100:200].all() and not drawn_BL[0, :100].any()
    assert torch.equal(drawn_BL[:, 200:], whole_BL[:, 200:]) and drawn_BL[:, 200:].any()


def test_absorbing_touches_masked_positions_only():
    x0_BL = torch.tensor([[4, 5, 9]])
    xt_BL = absorb(x0_BL, torch.tensor([[True, False, True]]), 9)
    assert xt_BL.tolist() == [[9, 5, 9]] and x0_BL.tolist() == [[4, 5, 9]] and xt_BL.dtype == torch.int64


def test_uniform_corruption_draws_every_id_alike():
    count, vocab = 20_000, 5
    x0_BL = torch.full((2, count), 3)
    noised_BL = torch.stack([torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)])
    numbers_BL = torch.rand(2, count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    numbers_BL[0, 0] = 1 - 2.0**-53
    xt_BL = corrupt_uniform(x0_BL, noised_BL, numbers_BL, vocab)
    assert (xt_BL[1] == 3).all()
    counts = torch.bincount(xt_BL[0], minlength=vocab).double()
    assert len(counts) == vocab
    assert float(((counts - count / vocab) ** 2 / (count / vocab)).sum()) < 18.5  # 4 d.o.f., p = 0.001


def test_shapes_are_checked():
    with pytest.raises(Exception, match="may_noise_BL"):
        draw_mask(
            torch.zeros(1, 3, dtype=torch.long),
            torch.ones(1, 4, dtype=torch.bool),
            torch.ones(1),
            keys=keys([1]),
            seed=0,
        )
