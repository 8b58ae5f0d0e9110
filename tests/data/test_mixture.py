"""Mixtures: the shares are those of the weights, every row has its turn, and (seed, epoch) decides everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data.build import build_pretrain, build_sft
from unmask.data.mixture import Mixture, interleaved
from unmask.errors import ConfigError, DataError
from unmask.training.arguments import DataArguments
from unmask.training.plan import Order, Shares, VisitSampler

Write = Callable[..., Path]
SETS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=4)


def _set_of(row: int, sizes: tuple[int, ...]) -> int:
    return int(np.searchsorted(np.cumsum(sizes), row, side="right"))


@settings(deadline=None, max_examples=60)
@given(SETS, st.integers(0, 3), st.booleans())
def test_shares_follow_the_weights_and_every_row_has_its_turn(
    sets: list[tuple[int, int]], seed: int, shuffle: bool
) -> None:
    sizes, weights = (tuple(values) for values in zip(*sets, strict=True))
    mixture = Mixture(sizes, weights)
    total = sum(sizes)
    exact = [Fraction(weight * total, sum(weights)) for weight in weights]
    if any(share < 1 for share in exact):
        return
    seen: list[Counter[int]] = [Counter() for _ in sizes]
    for epoch in range(4):
        rows, passes = mixture.epoch(epoch, seed, shuffle)
        counts = Counter(_set_of(row, sizes) for row in rows.tolist())
        assert len(rows) == total == sum(counts.values())
        assert all(abs(counts[index] - share) < 1 for index, share in enumerate(exact))
        for row, seen_before in zip(rows.tolist(), passes.tolist(), strict=True):
            seen[_set_of(row, sizes)][row, seen_before] += 1
    for index, size in enumerate(sizes):
        assert max(seen[index].values()) == 1
        times = Counter(seen_before for _, seen_before in seen[index])
        # All of a dataset was seen before any of it comes back.
        assert all(times[each] == size for each in range(max(times)))


def test_an_epoch_is_a_function_of_its_number_and_the_seed() -> None:
    def epoch(number: int, seed: int) -> list[int]:
        return Mixture((20, 5), (1, 1)).epoch(number, seed)[0].tolist()

    assert epoch(3, 7) == epoch(3, 7)
    assert len({tuple(epoch(number, seed)) for number in range(3) for seed in range(3)}) == 9


def test_a_small_dataset_is_repeated_and_a_large_one_sampled_anew() -> None:
    mixture = Mixture((90, 10), (1, 1))
    assert mixture.counts == (50, 50)
    epochs = [mixture.epoch(number, 0)[0] for number in range(2)]
    large = [set(rows[rows < 90].tolist()) for rows in epochs]
    assert len(large[0]) == 50 and len(large[0] | large[1]) == 90
    assert Counter(epochs[0][epochs[0] >= 90].tolist()) == dict.fromkeys(range(90, 100), 5)


def test_datasets_are_spread_over_the_epoch() -> None:
    for shuffle in (True, False):
        rows, _ = Mixture((3000, 1000), (3, 1)).epoch(0, 0, shuffle)
        shares = [float((part >= 3000).mean()) for part in np.split(rows, 8)]
        assert all(0.15 < share < 0.35 for share in shares)


def test_a_weight_too_small_for_a_row_is_refused() -> None:
    with pytest.raises(DataError, match=r"weight:0\.001 is no row in an epoch of 30"):
        _ = Mixture((20, 10), (1, 0.001)).counts


def test_however_a_run_is_shared_out_it_sees_the_same_mixture() -> None:
    lengths, mixture = np.arange(1, 31), Mixture((20, 10), (1, 3))

    def visits(micro: int, accumulation: int, ranks: int) -> set[tuple[int, int, int]]:
        order = Order(lengths, seed=1, update=8, mixture=mixture)
        samplers = [VisitSampler(order, Shares(micro, accumulation, ranks, rank), 10) for rank in range(ranks)]
        return {(v.number, v.row, v.epoch) for sampler in samplers for forward in sampler for v in forward}

    whole = visits(8, 1, 1)
    assert len(whole) == 80 and visits(2, 4, 1) == visits(1, 2, 4) == whole
    # A row that comes back has another epoch, hence other noise.
    assert len({(row, epoch) for _, row, epoch in whole}) == 80


def test_grouping_by_length_keeps_the_mixture() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, size=300)
    mixture = Mixture((200, 100), (1, 1))
    plain, grouped = (
        Order(lengths, seed=0, update=10, mixture=mixture, by_length=by_length) for by_length in (False, True)
    )
    drawn = [
        Counter((v.row, v.epoch) for update in range(30) for v in order.visits(update)) for order in (plain, grouped)
    ]
    assert drawn[0] == drawn[1]


# Streams


def _endless(*parts: list[str], weights: list[float]) -> Iterator[str]:
    return interleaved([lambda part=part: iter(part) for part in parts], weights)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_streams_keep_to_their_shares_all_the_time(weights: list[int]) -> None:
    parts = [[str(index)] * 3 for index in range(len(weights))]
    drawn = list(islice(_endless(*parts, weights=list(map(float, weights))), 200))
    for end in range(1, 201):
        for index, weight in enumerate(weights):
            assert abs(drawn[:end].count(str(index)) - end * weight / sum(weights)) < len(weights)


def test_a_stream_starts_anew_in_its_order() -> None:
    drawn = list(islice(_endless(["a", "b"], ["x", "y", "z"], weights=[1, 1]), 12))
    assert "".join(row for row in drawn if row in "ab") == "ababab"
    assert "".join(row for row in drawn if row in "xyz") == "xyzxyz"
    with pytest.raises(DataError, match="stream 2 of 2 holds no row"):
        list(islice(_endless(["a"], [], weights=[1, 1]), 3))


# From the dataset text


def _pairs(word: str, count: int) -> list[dict[str, str]]:
    return [{"user": f"{word} {number}", "assistant": word} for number in range(count)]


def test_weights_in_the_dataset_text(write: Write, byte_tokenizer: Any) -> None:
    one, two = write("a.jsonl", _pairs("aa", 30)), write("b.jsonl", _pairs("bb", 10))
    splits = build_sft(DataArguments(f"{one}[test:5,weight:1]+{two}[weight:4]"), byte_tokenizer)
    assert splits.mixture == Mixture((25, 10), (1.0, 4.0))
    assert splits.notes[-1] == "mixture: rows drawn per epoch from each dataset: 7 of 25; 28 of 10"
    assert len(splits.train) == 35 and splits.test and len(splits.test) == 5
    # One weight is enough; the others are 1. Without any, every row is seen once.
    half = build_sft(DataArguments(f"{one}+{two}[weight:0.5]"), byte_tokenizer)
    assert half.mixture == Mixture((30, 10), (1.0, 0.5))
    assert build_sft(DataArguments(f"{one}+{two}"), byte_tokenizer).mixture is None
    equal = build_sft(DataArguments(f"{one}[weight:1]+{two}[weight:1]"), byte_tokenizer)
    assert equal.mixture and equal.mixture.counts == (20, 20)
    with pytest.raises(ConfigError, match=r"evaluation sees every row once, so weight has no effect"):
        build_sft(DataArguments(str(one), f"{two}[weight:2]"), byte_tokenizer)


def test_corpora_that_are_mixed_are_packed_apart(write: Write, byte_tokenizer: Any) -> None:
    one, two = write("a.txt", "a" * 70), write("b.txt", "b" * 30)
    data = DataArguments(f"{one}[weight:1]+{two}[weight:1]", max_length=8)
    splits = build_pretrain(data, byte_tokenizer)
    texts = [byte_tokenizer.decode(row["input_ids"]) for row in splits.train]
    assert splits.mixture and splits.mixture.sizes == (8, 3)
    assert [set(text) for text in texts] == [{"a"}] * 8 + [{"b"}] * 3


@pytest.mark.parametrize("build", [build_sft, build_pretrain])
def test_weighted_streams(write: Write, byte_tokenizer: Any, build: Any) -> None:
    rows = _pairs if build is build_sft else lambda word, count: [{"text": word * 20}] * count
    one, two = write("a.jsonl", rows("aa", 30)), write("b.jsonl", rows("bb", 5))
    data = DataArguments(f"{one}[weight:1]+{two}[weight:3]", streaming=True, max_length=32)
    drawn = [byte_tokenizer.decode(row["input_ids"]) for row in islice(build(data, byte_tokenizer).train, 80)]
    assert sum("bb" in text for text in drawn) == 60
    assert drawn == [byte_tokenizer.decode(row["input_ids"]) for row in islice(build(data, byte_tokenizer).train, 80)]
