"""The storage does what it is told: append, overwrite a range, truncate, and refuse what would leave a gap."""

from __future__ import annotations

import pytest
import torch

from unmask.models.kv_cache import KVCache


def empty(capacity: int = 6) -> KVCache:
    return KVCache(layers=2, shape_BGLK=(1, 1, capacity, 1), dtype=torch.float32, device=torch.device("cpu"))


def feed(cache: KVCache, *values: float) -> list[float]:
    rows = torch.tensor(values).view(1, 1, -1, 1)
    for layer in range(2):
        keys, held = cache.write(layer, rows + 100 * layer, -rows)
    cache.advance(len(values))
    assert (keys - 100).flatten().tolist() == (-held).flatten().tolist()
    return (-held).flatten().tolist()


def test_rows_are_appended():
    cache = empty()
    assert feed(cache, 1, 2) == [1, 2]
    assert feed(cache, 3) == [1, 2, 3]
    assert (cache.start, cache.length, cache.capacity) == (3, 3, 6)


def test_a_range_is_overwritten_and_what_lies_behind_it_is_kept_and_seen():
    cache = empty()
    feed(cache, 1, 2, 3, 4)
    cache.overwrite_from(1)
    assert feed(cache, 8, 9) == [1, 8, 9, 4]
    assert feed(cache, 5) == [1, 8, 9, 4, 5]


def test_an_overwrite_may_run_past_the_end():
    cache = empty()
    feed(cache, 1, 2, 3)
    cache.overwrite_from(2)
    assert feed(cache, 7, 8, 9) == [1, 2, 7, 8, 9]


def test_truncation_forgets():
    cache = empty()
    feed(cache, 1, 2, 3, 4)
    cache.truncate(1)
    assert (cache.start, cache.length) == (1, 1)
    assert feed(cache, 9) == [1, 9]


def test_nothing_counts_as_stored_before_the_forward_is_finished():
    cache = empty()
    cache.write(0, torch.ones(1, 1, 2, 1), torch.ones(1, 1, 2, 1))
    assert (cache.start, cache.length) == (0, 0)


@pytest.mark.parametrize("start", [0, 3])
def test_rows_that_do_not_fit_are_refused(start: int):
    cache = empty()
    if start:
        feed(cache, *range(start))
    with pytest.raises(ValueError, match="do not fit"):
        feed(cache, *range(7 - start))


def test_a_gap_is_refused():
    cache = empty()
    feed(cache, 1)
    cache.start = 3
    with pytest.raises(ValueError, match="1 of 6 columns in use"):
        feed(cache, 1)


@pytest.mark.parametrize("column", [-1, 3])
def test_columns_outside_are_refused(column: int):
    cache = empty()
    feed(cache, 1, 2)
    with pytest.raises(ValueError, match="outside the 2 columns"):
        cache.overwrite_from(column)
    with pytest.raises(ValueError, match="cannot truncate 2 columns"):
        cache.truncate(column)


def test_rows_are_placed_one_by_one():
    cache = KVCache(layers=1, shape_BGLK=(2, 1, 4, 1), dtype=torch.float32, device=torch.device("cpu"))
    first = torch.tensor([[1.0, 2, 3], [4, 5, 6]]).view(2, 1, 3, 1)
    cache.write(0, first, first)
    cache.advance(3)
    cache.place(torch.tensor([[1], [3]]), 4)
    new = torch.tensor([8.0, 9]).view(2, 1, 1, 1)
    keys, values = cache.write(0, new, new)
    assert keys.flatten().tolist() == values.flatten().tolist() == [1, 8, 3, 0, 4, 5, 6, 9]
    cache.advance(1)
    cache.place(0, 2, rows=torch.tensor([1]))
    one = torch.tensor([7.0]).view(1, 1, 1, 1)
    assert cache.write(0, one, one)[0].flatten().tolist() == [7, 5]
    cache.advance(1)
    cache.keep([1])
    assert cache.keys.flatten().tolist() == [7, 5, 6, 9]
    cache.keep([0, 0])
    cache.widen(5)
    assert cache.keys.flatten().tolist() == [7, 5, 6, 9, 0, 7, 5, 6, 9, 0]


def test_how_far_watched_values_moved_is_measured():
    cache = KVCache(layers=1, shape_BGLK=(2, 1, 3, 2), dtype=torch.float32, device=torch.device("cpu"))
    old = torch.tensor([3.0, 4.0]).expand(2, 1, 3, 2)
    cache.write(0, old, old)
    cache.advance(3)
    cache.place(1, 3)
    cache.watched_BW = torch.tensor([[True, False], [True, True]])
    new = torch.tensor([[[3.0, 4.0], [9.0, 9.0]], [[3.0, 9.0], [3.0, 4.0]]]).unsqueeze(1)
    cache.write(0, new, new)
    # the first row's watched column stayed; the second's moved by 5, two columns being 5 long each
    torch.testing.assert_close(cache.moved_B, torch.tensor([0.0, 0.5**0.5]))
    cache.advance(2)
    assert cache.watched_BW is None
