"""Two evaluations of the same cases: by how much they differ, and how sure that is. Reads what they have written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb, isfinite
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
class _Case:
    """The corpus or task that it belongs to, its figures with their weights, and the names of all its metrics."""

    group: str
    metrics: dict[str, float]
    weights: dict[str, float]
    names: tuple[str, ...]


Pair = tuple[_Case, _Case]


@dataclass(frozen=True)
class Comparison:
    """What two evaluations differ by.

    Attributes:
        differences: by metric, over all cases. Where there are groups, only of metrics that all cases have.
        groups: the same by corpus or task, where there are several; each metric over those cases that have it.
        only_first, only_second: how many cases only one side has.
        missing: metrics that are in no case of both sides.
    """

    differences: dict[str, Difference]
    groups: dict[str, dict[str, Difference]]
    only_first: int
    only_second: int
    missing: tuple[str, ...]


def compare(first: Path, second: Path, *, seed: int = 0) -> Comparison:
    """Compare two folders of evaluations, case by case.

    Raises:
        DataError: one of them is none, they share no case or no metric.
    """
    cases = [_cases(first), _cases(second)]
    pairs = [(cases[0][key], cases[1][key]) for key in cases[0] if key in cases[1]]
    if not pairs:
        raise DataError(f"{first} and {second} share no case. Evaluate both on the same data.")
    grouped: dict[str, list[Pair]] = {}
    for pair in pairs:
        grouped.setdefault(pair[0].group, []).append(pair)
    groups = {name: _differences(members, seed) for name, members in grouped.items()}
    compared = {metric for found in groups.values() for metric in found}
    if not compared:
        raise DataError(f"{first} and {second} share no metric. Evaluate both by the same task.")
    known = dict.fromkeys(metric for pair in pairs for side in pair for metric in side.names)
    first_alone, second_alone = (len(side) - len(pairs) for side in cases)
    missing = tuple(metric for metric in known if metric not in compared)
    if len(groups) == 1:
        return Comparison(next(iter(groups.values())), {}, first_alone, second_alone, missing)
    return Comparison(_differences(pairs, seed, of_all=True), groups, first_alone, second_alone, missing)


def _differences(pairs: Sequence[Pair], seed: int, *, of_all: bool = False) -> dict[str, Difference]:
    """Of each metric that some pair has, or that all have."""
    names = dict.fromkeys(name for one, two in pairs for name in one.metrics if name in two.metrics)
    having = {name: [pair for pair in pairs if all(name in side.metrics for side in pair)] for name in names}
    return {
        name: difference(*_columns(members, name), seed=seed)
        for name, members in having.items()
        if not of_all or len(members) == len(pairs)
    }


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


def _columns(pairs: Sequence[Pair], name: str) -> tuple[list[float], list[float], list[float]]:
    return (
        [one.metrics[name] for one, _ in pairs],
        [two.metrics[name] for _, two in pairs],
        [one.weights.get(name, 1.0) for one, _ in pairs],
    )


def _cases(folder: Path) -> dict[str, _Case]:
    """What identifies a case -> the case."""
    file = folder / CASES if folder.is_dir() else folder
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}. Give the folder of an evaluation.") from None
    cases: dict[str, _Case] = {}
    times: Counter[str] = Counter()
    # other line breaks than this one are part of what somebody wrote
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n") if content else (), 1):
        try:
            case = json.loads(line.decode("utf-8"))
            said = json.dumps([case.get(name) for name in _SAME])
            read = _read(case)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            why = f" ({error})" if isinstance(error, _NoNumber) else ""
            raise DataError(f"{file}:{number} is no case of an evaluation{why}.") from None
        # equal questions are told apart by their order
        times[said] += 1
        cases[f"{said} {times[said]}"] = read
    return cases


class _NoNumber(ValueError):
    """Says what stands in a number's place."""


def _read(case: dict[str, Any]) -> _Case:
    """A metric without a finite figure, or without weight, is one that the case has not."""
    found = {name: _number(name, value) for name, value in case["metrics"].items()}
    weights = {name: _number(f"weight of {name}", value) for name, value in (case.get("weights") or {}).items()}
    if below := [name for name, value in weights.items() if value is not None and value < 0]:
        raise _NoNumber(f"the weight of {below[0]} is below 0")
    metrics = {name: value for name, value in found.items() if value is not None and weights.get(name, 1.0)}
    kept = {name: value for name, value in weights.items() if value}
    return _Case(str(case.get("source") or case.get("kind") or ""), metrics, kept, tuple(found))


def _number(name: str, value: Any) -> float | None:
    if value is not None and not isinstance(value, int | float):
        raise _NoNumber(f"{name} is {json.dumps(value)[:40]}, which is no number")
    return float(value) if value is not None and isfinite(value) else None


def page(names: tuple[str, str], found: Comparison) -> str:
    """The comparison as Markdown."""
    tables = _table(names, found.differences) if found.differences else []
    if found.groups:
        tables = ["## All", "", *tables, ""] if tables else []
        tables += [line for name, own in found.groups.items() for line in _section(names, name or "other", own)]
    lone = found.only_first + found.only_second
    notes = [
        *([f"{lone:,} cases that only one of them has are left out."] if lone else []),
        *([f"In no case do both have: {', '.join(found.missing)}."] if found.missing else []),
        "Differences are second minus first, case by case: bootstrap over cases, and the sign test.",
    ]
    return "\n".join(tables).rstrip() + "".join(f"\n\n{note}" for note in notes) + "\n"


def _section(names: tuple[str, str], name: str, found: dict[str, Difference]) -> list[str]:
    return [f"## {name}", "", *(_table(names, found) if found else ["No metric that both have."]), ""]


def _table(names: tuple[str, str], found: dict[str, Difference]) -> list[str]:
    head = f"| metric | {names[0]} | {names[1]} | difference (95 % interval) | cases | larger / smaller | p |"
    rows = [
        f"| {name} | {gap.first:.4f} | {gap.second:.4f} | {gap.difference:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}) | "
        f"{gap.cases:,} | {gap.larger:,} / {gap.smaller:,} | {gap.sign_p:.2g} |"
        for name, gap in found.items()
    ]
    return [head, "|---|---:|---:|---:|---:|---:|---:|", *rows]


def document(names: tuple[str, str], found: Comparison) -> dict[str, Any]:
    """The comparison, ready for JSON."""
    return {"schema": "unmask-comparison/2", "first": names[0], "second": names[1], **asdict(found)}
