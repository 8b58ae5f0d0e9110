"""Which rows are for training and which for testing: numbers out of a spec and a count, without looking at the rows."""

from __future__ import annotations

import numpy as np

from unmask.data.spec import DatasetSpec
from unmask.errors import DataError

DIVISION_SEED = 42


def divide(spec: DatasetSpec, total: int) -> tuple[np.ndarray | None, np.ndarray | None, list[str]]:
    """Row numbers (sorted, int64) of a single split's training and test part, and notes.

    None stands for all rows, respectively for no test part. The test rows depend on (seed, total, size of the test
    part) alone, so that asking for fewer training rows leaves them as they are.

    Raises:
        DataError: one of the parts would be empty.
    """
    if spec.test is None:
        train, notes = limit(spec, "train", total)
        return train, None, notes
    tests = _count(spec.test, total)
    rest = total - tests
    if tests == 0 or rest <= 0:
        kind = " A .txt is one row unless <|endoftext|> stands between its texts." if ".txt" in spec.path else ""
        raise DataError(
            f'dataset "{spec}" has {total:,} row{"" if total == 1 else "s"}: test:{spec.test} leaves no row for one of '
            f"the two parts.{kind}"
        )
    trains = rest if spec.train is None else _count(spec.train, total)
    # Shares that add up to everything may exceed it by the rounding of one row; that deserves no word.
    notes = _too_few(spec, "train", trains, rest) if trains > rest + 1 else []
    order = _shuffled(spec, total)
    return np.sort(order[tests : tests + trains]), np.sort(order[:tests]), notes


def limit(spec: DatasetSpec, key: str, total: int) -> tuple[np.ndarray | None, list[str]]:
    """Row numbers (sorted, int64) of the `key` rows that the spec asks for out of `total`; None: all."""
    wanted = getattr(spec, key)
    count = total if wanted is None else _count(wanted, total)
    if count >= total:
        return None, _too_few(spec, key, count, total) if count > total else []
    return np.sort(_shuffled(spec, total)[:count]), []


def _shuffled(spec: DatasetSpec, total: int) -> np.ndarray:
    # RandomState, not Generator: numpy promises its numbers for all time.
    return np.random.RandomState(DIVISION_SEED if spec.seed is None else spec.seed).permutation(total)


def _count(wanted: int | float, total: int) -> int:
    return max(round(wanted * total), 1) if isinstance(wanted, float) else wanted


def _too_few(spec: DatasetSpec, key: str, wanted: int, there: int) -> list[str]:
    return [f'dataset "{spec}": {key}:{wanted} asks for more rows than there are; all {there:,} are used']
