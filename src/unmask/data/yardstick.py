"""What a bound has to be compared with: the cost of knowing nothing but how frequent each token is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

Ids = Sequence[int] | np.ndarray
# enough for three digits, and read in about a second
_ROWS = 50_000


def unigram_nats(train: Iterable[Ids], test: Iterable[Ids], vocab_size: int) -> float:
    """Nats per token that token frequencies need: those of `train`, plus one each, on the tokens of `test`.

    A model whose bound is not below this has learned no context.

    Args:
        train, test: runs of ids, lists or arrays.
        vocab_size: V.
    """
    counts = np.ones(vocab_size)
    for ids in train:
        counts += np.bincount(np.asarray(ids, dtype=np.int64), minlength=vocab_size)
    nats = -np.log(counts / counts.sum())
    return float(np.concatenate([nats[np.asarray(ids, dtype=np.int64)] for ids in test]).mean())


def learned_ids(rows: Any) -> Iterator[np.ndarray]:
    """The learned ids of a tokenised `datasets.Dataset`, many rows at a time; of its first 50,000 rows only."""
    for table in rows.select(range(min(len(rows), _ROWS))).with_format("arrow").iter(5_000):
        ids = _flat(table["input_ids"])
        yield ids[_flat(table["may_noise"])] if "may_noise" in table.column_names else ids


def _flat(column: Any) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
