"""Packed rows and forwards of similar length are a pure plan: shared out without gaps, the same for any ranks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from unmask.data.collate import Visit
from unmask.data.ends import PackedEnds
from unmask.data.mixture import Mixture
from unmask.training.grouped import GroupedOrder, Grouping, evaluation_batches
from unmask.training.loading import VisitedStream
from unmask.training.plan import Order, RandomLength, Shares, VisitSampler

LENGTHS = np.random.default_rng(0).integers(4, 60, size=300)
SIZE = 64


def packed(update: int = 8, lengths: np.ndarray = LENGTHS, *, most: int = 6, **more: object) -> GroupedOrder:
    order = Order(lengths, seed=1, update=update, **more)  # type: ignore[arg-type]
    return GroupedOrder(order, Grouping("row", SIZE, PackedEnds("eos", most=most, max_length=SIZE), seed=1))


def budgeted(update: int = 8, lengths: np.ndarray = LENGTHS) -> GroupedOrder:
    return GroupedOrder(Order(lengths, seed=1, update=update), Grouping("forward", 256, PackedEnds("none"), seed=1))


def rows(visits: list[Visit]) -> list[list[Visit]]:
    return [list(some) for _, some in groupby(visits, key=lambda visit: visit.bin)]


def numbers(plan: GroupedOrder, units: int) -> Iterator[Visit]:
    for update in range(units):
        for group in plan.groups(update):
            yield from group


SHARED_OUT = [(8, 1, 1), (2, 4, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]


@pytest.mark.parametrize("make", [packed, budgeted])
@pytest.mark.parametrize(("micro", "accumulation", "ranks"), SHARED_OUT)
def test_an_update_holds_the_same_samples_however_it_is_shared_out(make, micro: int, accumulation: int, ranks: int):
    per_update: list[list[Visit]] = [[] for _ in range(4)]
    for rank in range(ranks):
        for index, forward in enumerate(VisitSampler(make(), Shares(micro, accumulation, ranks, rank), 4)):
            per_update[index // accumulation] += forward
    whole = [[visit for group in make().groups(update) for visit in group] for update in range(4)]
    assert [sorted(some, key=lambda visit: visit.number) for some in per_update] == whole
    assert all({visit.update for visit in some} == {update} for update, some in enumerate(whole))


@pytest.mark.parametrize("make", [packed, budgeted])
def test_samples_are_numbered_as_they_are_visited_and_each_comes_once_in_an_epoch(make) -> None:
    plan = make()
    visits = list(numbers(plan, plan.updates_for(3)))
    assert [visit.number for visit in visits] == list(range(len(visits)))
    for epoch in range(3):
        seen = visits[300 * epoch : 300 * (epoch + 1)]
        assert sorted(visit.row for visit in seen) == list(range(300))
        assert {visit.epoch for visit in seen} == {epoch}
    assert len({tuple(visit.row for visit in visits[300 * e : 300 * (e + 1)]) for e in range(3)}) == 3


def test_rows_hold_whole_documents_with_their_learned_ends() -> None:
    plan = packed()
    for update in range(10):
        for row in plan.groups(update):
            assert len({visit.bin for visit in row}) == 1
            assert sum(visit.padded for visit in row) <= SIZE
            assert all(LENGTHS[visit.row] == visit.length <= visit.padded <= visit.length + 6 for visit in row)


def test_forwards_fit_their_budget_and_pad_to_their_own_longest_row() -> None:
    plan = budgeted()
    for update in range(4):
        for forward in plan.groups(update):
            assert len(forward) * max(visit.length for visit in forward) <= 256
            assert {visit.padded for visit in forward} == {max(visit.length for visit in forward)}
            assert {visit.bin for visit in forward} == {None}
    order = Order(LENGTHS, seed=1, update=8)
    apart = sum(visit.padded - visit.length for update in range(30) for visit in order.visits(update))
    similar = [visit for update in range(plan.updates_for(1)) for group in plan.groups(update) for visit in group]
    assert sum(visit.padded - visit.length for visit in similar) < 0.1 * apart


@pytest.mark.parametrize("make", [packed, budgeted])
def test_epochs_are_counted_in_samples(make) -> None:
    plan, one = make(update=1), make(update=1).updates_for(1)
    assert plan.epochs_done(0) == 0
    assert plan.epochs_done(one) == 1
    assert plan.updates_for(2) > one
    assert plan.epochs_done(plan.updates_for(2)) == 2
    half = plan.updates_for(0.5)
    seen = sum(len(plan.groups(update)[0]) for update in range(half))
    assert plan.epochs_done(half) == pytest.approx(seen / 300)
    assert 0.5 <= seen / 300 < 0.56
    assert make(update=8).updates_for(1) == -(-one // 8)


def test_mixed_datasets_keep_their_weights_in_documents() -> None:
    mixture = Mixture((200, 100), (1.0, 3.0))
    plan = packed(mixture=mixture)
    visits = list(numbers(plan, plan.updates_for(1)))[:300]
    drawn = Counter(visit.row >= 200 for visit in visits)
    assert drawn == {True: 225, False: 75}
    # rows of the smaller set come again, as another epoch of their own, so that they get other noise
    assert len({(visit.row, visit.epoch) for visit in visits}) == 300


def test_cropped_documents_take_less_room() -> None:
    whole, cropped = packed(), packed(crop=RandomLength(0.9, seed=3))
    assert cropped.updates_for(1) < whole.updates_for(1)
    crop = RandomLength(0.9, seed=3)
    assert all(v.length == crop(int(LENGTHS[v.row]), v.row, v.epoch) for v in numbers(cropped, 3))


def test_sequential_rows_come_in_the_order_of_their_first_documents() -> None:
    order = Order(LENGTHS, seed=1, update=4, shuffle=False)
    plan = GroupedOrder(order, Grouping("row", SIZE, PackedEnds("none")))
    firsts = [group[0].row for update in range(10) for group in plan.groups(update)]
    assert firsts == sorted(firsts)


def test_the_plan_does_not_depend_on_where_it_is_entered() -> None:
    fresh = packed().groups(40)
    plan = packed()
    assert [plan.groups(update) for update in range(41)][40] == fresh
    assert fresh[0][0].epoch == 1


@pytest.mark.parametrize("padding", ["eos", "block", "none"])
@pytest.mark.parametrize("samples", [1, 3])
def test_evaluation_visits_the_same_packed_and_not(padding: str, samples: int) -> None:
    grouping = Grouping("row", SIZE, PackedEnds(padding, 16, max_length=SIZE), seed=1)  # type: ignore[arg-type]

    def told(visits: list[Visit]) -> list[tuple[int, ...]]:
        return sorted((v.number, v.row, v.epoch, v.length, v.padded) for v in visits if v.counted)

    apart = [visit for batch in evaluation_batches(LENGTHS, Shares(4), samples) for visit in batch]
    for ranks, micro in [(1, 4), (2, 3), (3, 2)]:
        plans = [evaluation_batches(LENGTHS, Shares(micro, 1, ranks, r), samples, grouping) for r in range(ranks)]
        assert len({len(plan) for plan in plans}) == 1
        assert told([visit for plan in plans for batch in plan for visit in batch]) == told(apart)
        units = [row for plan in plans for batch in plan for row in rows([v for v in batch if v.counted])]
        assert all(sum(visit.length for visit in row) <= SIZE for row in units)
        assert max(len(row) for row in units) >= 2
    assert evaluation_batches(LENGTHS[:0], Shares(4), samples, grouping) == []


STREAM = [{"input_ids": [index] * int(length)} for index, length in enumerate(LENGTHS[:90])]


@pytest.mark.parametrize(("micro", "accumulation", "ranks"), [(4, 1, 1), (2, 1, 2), (1, 2, 2), (1, 1, 4)])
def test_a_packed_stream_is_shared_out_like_any_other(micro: int, accumulation: int, ranks: int) -> None:
    grouping = Grouping("row", SIZE, PackedEnds("eos", most=6, max_length=SIZE), seed=2)

    def seen(shares: Shares) -> dict[int, tuple]:
        stream = VisitedStream(STREAM, shares, 30 * shares.accumulation, RandomLength(), grouping)
        return {
            visit.number: (visit.row, visit.epoch, visit.padded, visit.bin, visit.update, row["input_ids"][0])
            for forward in stream
            for visit, row in forward
        }

    together = {}
    for rank in range(ranks):
        together |= seen(Shares(micro, accumulation, ranks, rank))
    assert together == seen(Shares(4))
    assert sorted(together) == list(range(len(together)))
    epoch = [together[number] for number in range(90)]
    assert sorted(row for row, *_ in epoch) == list(range(90))
    assert all(row == first for row, *_, first in together.values())


def test_a_streams_buffer_is_bounded() -> None:
    read = []

    def rows_() -> Iterator[dict]:
        for index in range(10**6):
            read.append(index)
            yield {"input_ids": [1] * 8}

    class Endless:
        __iter__ = staticmethod(rows_)

    stream = VisitedStream(Endless(), Shares(1), 3, RandomLength(), Grouping("row", SIZE, seed=0))  # type: ignore[arg-type]
    assert len(next(iter(stream))) == 8
    assert len(read) == 64 * 8


def written_out(rows_: list[dict], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Tokens of instructions, inputs and answers, and the dozen that a chat template puts around them."""
    texts = ["\n".join(str(value) for value in row.values()) for row in rows_]
    return np.array([len(ids) + 12 for ids in tokenizer(texts)["input_ids"]])


@pytest.mark.parametrize("file", ["alpaca_en/alpaca_data.first12000.json", "alpaca_zh/zh-data-part-00.json"])
def test_real_conversations_fill_more_than_97_percent_of_their_rows(shared: Path, file: str) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(shared / "data/tokenizers/minimind_6400/tokenizer.json"))
    lengths = written_out(json.loads((shared / "data" / file).read_text("utf-8"))[::4], tokenizer)
    for size, padding in [(1024, "eos"), (1024, "none"), (1024, "block"), (2048, "eos"), (2048, "none")]:
        order = Order(np.minimum(lengths, size), seed=7, update=4)
        plan = GroupedOrder(order, Grouping("row", size, PackedEnds(padding, max_length=size), seed=7))  # type: ignore[arg-type]
        packed_rows = [group for update in range(plan.updates_for(1)) for group in plan.groups(update)]
        whole = [row for row in packed_rows if row[0].epoch == 0]
        real = sum(visit.padded for row in whole for visit in row)
        if padding == "none":
            assert real == np.minimum(lengths, size).sum()
        assert real / (size * len(whole)) > 0.97
        told = plan.filling()
        assert (told.units, told.samples) == (len(whole), len(lengths))
        assert told.share == pytest.approx(real / (size * len(whole)))
        assert f"{100 * told.share:.1f} % filled" in str(told)
