"""What a bound has to be compared with: the cost of knowing nothing but how frequent each token is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

# enough for three digits, and read in about a second
_ROWS = 50_000


def unigram_nats(train: Any, test: Any, vocab_size: int) -> float:
    """Nats per learned token that token frequencies need: those of `train`, plus one each, on the rows of `test`.

    A model whose bound is not below this has learned no context.

    Args:
        train, test: tokenised `datasets.Dataset`s (`input_ids`, and `may_noise` where not all tokens are learned); of
            larger ones the first 50,000 rows count.
        vocab_size: V.
    """
    counts = np.ones(vocab_size)
    for ids in _learned(train):
        counts += np.bincount(ids, minlength=vocab_size)
    nats = -np.log(counts / counts.sum())
    costs = [nats[ids] for ids in _learned(test)]
    return float(np.concatenate(costs).mean())


def _learned(rows: Any) -> Iterator[np.ndarray]:
    """The learned ids of a dataset, a batch of rows at a time."""
    for table in rows.select(range(min(len(rows), _ROWS))).with_format("arrow").iter(5_000):
        ids = _flat(table["input_ids"])
        yield ids[_flat(table["may_noise"])] if "may_noise" in table.column_names else ids


def _flat(column: Any) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
