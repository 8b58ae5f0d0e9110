"""The cost of counting, against entropies worked out by hand."""

from __future__ import annotations

import math

import pytest
from datasets import Dataset

from unmask.data.yardstick import learned_ids, unigram_nats


def test_equally_frequent_tokens_cost_the_logarithm_of_their_number() -> None:
    rows = [[0, 1, 2, 3]] * 5000
    assert unigram_nats(rows, rows, 4) == pytest.approx(math.log(4))


def test_a_token_never_seen_is_dear_but_finite() -> None:
    # 98 + 2 counts, one of them for the unseen token
    assert unigram_nats([[0] * 98], [[1]], 2) == pytest.approx(math.log(100))


def test_only_learned_tokens_count() -> None:
    ids, learned = [[0, 0, 0, 1, 2]] * 4000, [[False, False, False, True, True]] * 4000
    rows = Dataset.from_dict({"input_ids": ids, "may_noise": learned})
    assert unigram_nats(learned_ids(rows), learned_ids(rows), 3) == pytest.approx(math.log(2), abs=1e-3)
    everything = rows.remove_columns("may_noise")
    assert sum(map(len, learned_ids(everything))) == 20_000
