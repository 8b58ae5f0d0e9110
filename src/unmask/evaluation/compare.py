"""Two evaluations of the same cases: by how much they differ, and how sure that is. Reads what they have written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unmask.errors import DataError

# what says which case it is; the rest of a case depends on who answered
_SAME = ("id", "question", "gold", "tokens", "bytes")
CASES = "cases.jsonl"
RESAMPLES = 2000
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A metric of both, over the cases that both have.

    Attributes:
        first, second: weighted means.
        difference: second - first. low, high: it lies between these 95 times in 100 (percentile bootstrap over cases,
            Efron 1979; both sides of a case are drawn together).
        cases: how many. larger, smaller: in how many the second value is.
        sign_p: how probable so uneven a division of these is by chance (the sign test; of right and wrong, McNemar's).
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    cases: int
    larger: int
    smaller: int
    sign_p: float


@dataclass(frozen=True)
class Comparison:
    """The differences by metric; how many cases only one side has."""

    differences: dict[str, Difference]
    only_first: int
    only_second: int


def compare(first: Path, second: Path, *, seed: int = 0) -> Comparison:
    """Compare two folders of evaluations, case by case.

    Raises:
        DataError: one of them is none, they share no case or no metric.
    """
    cases = [_cases(first), _cases(second)]
    shared = [key for key in cases[0] if key in cases[1]]
    if not shared:
        raise DataError(f"{first} and {second} share no case. Evaluate both on the same data.")
    pairs = [(cases[0][key], cases[1][key]) for key in shared]
    names = [name for name in pairs[0][0]["metrics"] if all(name in side["metrics"] for pair in pairs for side in pair)]
    if not names:
        raise DataError(f"{first} and {second} share no metric. Evaluate both by the same task.")
    found = {name: difference(*_columns(pairs, name), seed=seed) for name in names}
    return Comparison(found, len(cases[0]) - len(shared), len(cases[1]) - len(shared))


def difference(
    first: Sequence[float], second: Sequence[float], weights: Sequence[float], *, seed: int = 0
) -> Difference:
    """How much the second values differ from the first, pair by pair.

    Args:
        first, second: values of the same cases, in one order.
        weights: of the cases: a mean is the sum of weights times values, by the sum of weights.
        seed: of the resamples.

    Raises:
        ValueError: there are no cases, or not equally many.
    """
    one, two, weight = (np.asarray(values, dtype=np.float64) for values in (first, second, weights))
    if not len(one) == len(two) == len(weight) > 0:
        raise ValueError(f"{len(one)}, {len(two)} and {len(weight)} values are no pairs")
    draw = np.random.default_rng(seed)
    gaps = [_gap(one, two, weight, draw.integers(0, len(one), len(one))) for _ in range(RESAMPLES)]
    low, high = np.percentile(gaps, [2.5, 97.5])
    larger, smaller = int((two > one).sum()), int((two < one).sum())
    mean_one, mean_two = (float((weight * values).sum() / weight.sum()) for values in (one, two))
    interval, sign = (float(low), float(high)), _sign_test(larger, smaller)
    return Difference(mean_one, mean_two, mean_two - mean_one, *interval, len(one), larger, smaller, sign)


def _gap(one: Numbers, two: Numbers, weight: Numbers, chosen: npt.NDArray[np.int64]) -> float:
    drawn = weight[chosen]
    return float((drawn * (two - one)[chosen]).sum() / drawn.sum())


def _sign_test(larger: int, smaller: int) -> float:
    """Two-sided; cases without a difference say nothing."""
    count, least = larger + smaller, min(larger, smaller)
    return min(1.0, 2 * sum(comb(count, k) for k in range(least + 1)) / 2**count)


def _columns(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], name: str) -> tuple[list[float], ...]:
    values = [[side["metrics"][name] for side in sides] for sides in zip(*pairs, strict=True)]
    return *values, [one.get("weights", {}).get(name, 1.0) for one, _ in pairs]


def _cases(folder: Path) -> dict[str, dict[str, Any]]:
    """What identifies a case -> the case."""
    file = folder / CASES if folder.is_dir() else folder
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}. Give the folder of an evaluation.") from None
    cases: dict[str, dict[str, Any]] = {}
    times: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        try:
            case = json.loads(line)
            said = json.dumps([case.get(name) for name in _SAME])
            # equal questions are told apart by their order
            times[said] += 1
            cases[f"{said} {times[said]}"] = {**case, "metrics": dict(case["metrics"])}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{file}:{number} is no case of an evaluation.") from None
    return cases


def page(names: tuple[str, str], found: Comparison) -> str:
    """The comparison as Markdown."""
    head = f"| metric | {names[0]} | {names[1]} | difference (95 % interval) | cases | larger / smaller | p |"
    rows = [
        f"| {name} | {gap.first:.4f} | {gap.second:.4f} | {gap.difference:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}) | "
        f"{gap.cases:,} | {gap.larger:,} / {gap.smaller:,} | {gap.sign_p:.2g} |"
        for name, gap in found.differences.items()
    ]
    lone = found.only_first + found.only_second
    left = f"\n\n{lone:,} cases that only one of them has are left out." if lone else ""
    said = "Differences are second minus first, case by case: bootstrap over cases, and the sign test."
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|---:|", *rows]) + f"{left}\n\n{said}\n"


def document(names: tuple[str, str], found: Comparison) -> dict[str, Any]:
    """The comparison, ready for JSON."""
    return {"schema": "unmask-comparison/1", "first": names[0], "second": names[1], **asdict(found)}
