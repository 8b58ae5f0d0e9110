"""How many end-of-text tokens stand behind a row."""

from __future__ import annotations

import numpy as np
import pytest

from unmask.data.ends import PackedEnds, padded_alone

ROWS = np.arange(6000)
NONE = np.zeros_like(ROWS)


@pytest.mark.parametrize(("length", "end"), [(1, 32), (32, 32), (33, 64)])
def test_padding_of_a_row_alone(length: int, end: int) -> None:
    assert padded_alone(length) == end


def test_every_order_of_magnitude_is_as_frequent() -> None:
    behind = PackedEnds("eos", most=63, max_length=9999)(NONE + 100, ROWS, NONE) - 100
    assert (behind.min(), behind.max()) == (1, 63)
    shares = [((behind >= low) & (behind < 2 * low)).mean() for low in (1, 2, 4, 8, 16, 32)]
    assert shares == pytest.approx([1 / 6] * 6, abs=0.002)


def test_the_number_is_the_rows_own_and_changes_with_the_epoch() -> None:
    ends = PackedEnds("eos", max_length=9999)
    whole = ends(NONE + 50, ROWS, NONE + 2)
    some = np.array([5, 4711, 17])
    assert ends(np.full(3, 50), some, np.full(3, 2)).tolist() == whole[some].tolist()
    assert (ends(NONE + 50, ROWS, NONE + 3) != whole).mean() > 0.8
    # the default as the option's help states it
    assert (whole - 50).mean() == pytest.approx(15, abs=0.6)


def test_no_end_lies_beyond_the_longest_row() -> None:
    ends = PackedEnds("eos", max_length=110)(NONE + 100, ROWS, NONE)
    assert ends.max() == 110


def test_the_other_policies() -> None:
    lengths = np.array([1, 16, 17])
    assert PackedEnds("none")(lengths, lengths, lengths).tolist() == [1, 16, 17]
    assert PackedEnds("block", block_size=16)(lengths, lengths, lengths).tolist() == [16, 16, 32]
    assert PackedEnds("eos", most=0)(lengths, lengths, lengths).tolist() == [1, 16, 17]
