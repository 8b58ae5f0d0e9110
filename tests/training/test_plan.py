"""The visiting order is a pure function, shared out without gaps or overlaps."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from unmask.training.grouped import evaluation_batches
from unmask.training.plan import Order, RandomLength, Shares, VisitSampler

LENGTHS = np.array([5, 9, 3, 12, 7, 4, 8, 6, 10, 11])


def flat(sampler: VisitSampler) -> list[int]:
    return [visit.number for forward in sampler for visit in forward]


@pytest.mark.parametrize(("micro", "accumulation", "ranks"), [(8, 1, 1), (2, 4, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_an_update_holds_the_same_samples_however_it_is_shared_out(micro: int, accumulation: int, ranks: int) -> None:
    per_update: list[set[tuple[int, int, int]]] = [set() for _ in range(4)]
    for rank in range(ranks):
        shares = Shares(micro, accumulation, ranks, rank)
        for index, forward in enumerate(VisitSampler(Order(LENGTHS, seed=1, update=8), shares, 4)):
            per_update[index // accumulation] |= {(v.number, v.row, v.padded) for v in forward}
    whole = VisitSampler(Order(LENGTHS, seed=1, update=8), Shares(8), 4)
    assert per_update == [{(v.number, v.row, v.padded) for v in forward} for forward in whole]


def test_each_epoch_sees_each_row_once_and_in_another_order() -> None:
    visits = [v for forward in VisitSampler(Order(LENGTHS, seed=1, update=5), Shares(5), 6) for v in forward]
    epochs = [[v.row for v in visits if v.epoch == epoch] for epoch in range(3)]
    assert all(sorted(rows) == list(range(10)) for rows in epochs)
    assert len({tuple(rows) for rows in epochs}) == 3


def test_learned_padding_reaches_to_the_longest_row_of_the_update() -> None:
    for forward in VisitSampler(Order(LENGTHS, seed=2, update=4), Shares(4), 5):
        assert {v.padded for v in forward} == {max(LENGTHS[v.row] for v in forward)}


def test_grouping_by_length_visits_all_rows_and_wastes_less_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, size=1000)

    def waste(by_length: bool) -> int:
        order = Order(lengths, seed=0, update=10, by_length=by_length)
        visits = [v for update in range(100) for v in order.visits(update)]
        assert Counter(v.row for v in visits) == Counter(range(1000))
        return sum(v.padded - v.length for v in visits)

    assert waste(True) < 0.2 * waste(False)


def test_updates_for_epochs_rounds_up() -> None:
    assert Order(LENGTHS, seed=0, update=4).updates_for(1) == 3
    assert Order(LENGTHS, seed=0, update=4).updates_for(2) == 5
    assert Order(LENGTHS, seed=0, update=4).updates_for(0.1) == 1


def test_random_length_cuts_its_share_of_rows_uniformly() -> None:
    crop = RandomLength(0.25, seed=5)
    cut = [crop(100, row, 0) for row in range(4000)]
    shorter = [length for length in cut if length < 100]
    # about a quarter is cut; one in a hundred of the cuts keeps all 100 tokens
    assert 0.22 < len(shorter) / 4000 < 0.28
    assert min(cut) >= 1
    assert 45 < np.mean(shorter) < 55
    assert [RandomLength(0.25, seed=5)(100, row, 0) for row in range(4000)] == cut
    assert [crop(100, row, 1) for row in range(4000)] != cut


def test_evaluation_gives_every_rank_the_same_number_of_batches_and_counts_each_row_once() -> None:
    for ranks, micro in [(1, 4), (2, 3), (3, 2)]:
        plans = [evaluation_batches(LENGTHS, Shares(micro, 1, ranks, rank)) for rank in range(ranks)]
        assert len({len(plan) for plan in plans}) == 1
        assert all(len(batch) == micro for plan in plans for batch in plan)
        counted = [visit.row for plan in plans for batch in plan for visit in batch if visit.counted]
        assert sorted(counted) == list(range(10))
