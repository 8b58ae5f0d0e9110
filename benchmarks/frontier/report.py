"""Tables and a figure of what was measured: quality with its interval, tokens per forward, positions per token.

Each seed is a model of its own with questions of its own. A model that has not learned its task says nothing about
decoding and is left out (`left_out`). Intervals cover the choice of models and questions: models are drawn with
replacement, then questions of each, and the spread is widened by sqrt(k / (k - 1)) for the k models there are, as a
sample's variance is. For shares, Wilson's interval over all questions is taken where it is wider.

Costs are totals over totals of all questions and seeds. Losses are paired: the same questions of the same models under
the baseline, one token of the highest confidence a step without a cache.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarks.frontier.settings import BASELINE, CACHES, KNOBS, LENGTHS

from unmask.evaluation.intervals import wilson

TASKS = ("sums", "sudoku", "tables", "stories")
# the share of right answers under the baseline from which on a model is taken to have learned its task
LEARNED = 0.8
# a loss below this is none: points of accuracy, nats per token
MARGINS = {"sums": 0.02, "sudoku": 0.02, "tables": 0.02, "stories": 0.1}
COLOURS = ("#1f6fb4", "#c2461c", "#3b8c4a", "#8a4fb0", "#b8860b", "#d1478c", "#17a2a2", "#6b6b6b", "#7a3b1e", "#22408f")
COLOURS = (*COLOURS, "#9acd32", "#ff8c69", "#4b0082", "#2f4f4f", "#00b0f0", "#808000", "#e377c2")


@dataclass(frozen=True)
class Summary:
    """One setting on one task, all models together.

    Attributes:
        mark: share of right answers, or nats per token of stories. low, high: its interval (95 %).
        loss: how much worse than the baseline, in the same unit; above 0 is worse. surest_loss: the interval's low end.
        per_forward: tokens per forward. per_token: positions computed per token.
    """

    mark: float
    low: float
    high: float
    loss: float
    surest_loss: float
    per_forward: float
    per_token: float
    models: int
    count: int


Found = dict[str, dict[str, Summary]]


def left_out(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Models that have not learned their task: (task, model) -> share of right answers under the baseline."""
    marks: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row["setting"] == BASELINE.name and row["task"] != "stories":
            marks[row["task"], model_of(row)] += row["marks"]
    shares = {key: sum(found) / len(found) for key, found in marks.items()}
    return {key: share for key, share in shares.items() if share < LEARNED}


def model_of(row: dict[str, Any]) -> str:
    """The model that a row was measured with."""
    return row.get("model") or f"{row['task']}-{row['seed']}"


def by_model(by_seed: dict[int, dict[str, Any]], marks: Callable[[int], list[float]]) -> list[list[float]]:
    """The marks of each model, whatever sets of questions it was asked."""
    found: dict[str, list[float]] = defaultdict(list)
    for seed, row in by_seed.items():
        found[model_of(row)] += marks(seed)
    return list(found.values())


def summarise(rows: Iterable[dict[str, Any]]) -> Found:
    """By setting, then by task, without the models that are `left_out`."""
    rows = sorted(rows, key=lambda row: row["seed"])  # what is drawn must not depend on the order in the file
    out = left_out(rows)
    rows = [row for row in rows if (row["task"], model_of(row)) not in out]
    groups: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        groups[row["setting"], row["task"]][row["seed"]] = row
    found: Found = defaultdict(dict)
    for (setting, task), by_seed in groups.items():
        base = groups.get((BASELINE.name, task), {})
        found[setting][task] = _summary(task, by_seed, base)
    return dict(found)


def _summary(task: str, by_seed: dict[int, dict[str, Any]], base: dict[int, dict[str, Any]]) -> Summary:
    marks = [mark for row in by_seed.values() for mark in row["marks"]]
    sign = 1 if task == "stories" else -1
    paired = {seed: row for seed, row in by_seed.items() if seed in base}

    def losses(seed: int) -> list[float]:
        both = zip(paired[seed]["marks"], base[seed]["marks"], strict=True)
        return [sign * (mine - other) for mine, other in both]

    pairs = by_model(paired, losses)
    low, high = of_models(by_model(by_seed, lambda seed: by_seed[seed]["marks"]))
    if task != "stories":
        narrow, wide = wilson(sum(marks), len(marks))
        low, high = min(low, narrow), max(min(high, 1.0), wide)
    emitted, forwards, positions = (
        sum(row[name] for row in by_seed.values()) for name in ("emitted", "forwards", "positions")
    )
    return Summary(
        mark=sum(marks) / len(marks),
        low=low,
        high=high,
        loss=float(np.mean([np.mean(part) for part in pairs])) if pairs else math.nan,
        surest_loss=of_models(pairs)[0] if pairs else math.nan,
        per_forward=emitted / forwards,
        per_token=positions / max(emitted, 1),
        models=len({model_of(row) for row in by_seed.values()}),
        count=len(marks),
    )


def of_models(marks: Sequence[Sequence[float]], *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The interval (95 %) of a mean over models of means over questions: `marks` has one list for each model."""
    draw, count = np.random.default_rng(seed), len(marks)
    given = [np.asarray(part, dtype=np.float64) for part in marks]
    means = np.empty((resamples, count))
    chosen = draw.integers(0, count, (resamples, count))
    for number, part in enumerate(given):
        is_it = chosen == number
        means[is_it] = part[draw.integers(0, len(part), (int(is_it.sum()), len(part)))].mean(1)
    middle = float(np.mean([part.mean() for part in given]))
    spread = (means.mean(1) - middle) * (math.sqrt(count / (count - 1)) if count > 1 else 1.0)
    low, high = np.percentile(middle + spread, [2.5, 97.5])
    return float(low), float(high)


def holds(by_task: dict[str, Summary]) -> bool:
    """Whether a setting was measured everywhere and is nowhere worse than the baseline by more than the margin."""
    return set(by_task) >= set(TASKS) and all(by_task[task].loss <= MARGINS[task] for task in TASKS)


def mean_of(by_task: dict[str, Summary], value: Callable[[Summary], float]) -> float:
    """Geometric mean over the tasks."""
    return math.exp(sum(math.log(value(by_task[task])) for task in TASKS) / len(TASKS))


def cell(task: str, summary: Summary | None) -> str:
    """Quality with half its interval, tokens per forward, positions per token."""
    if summary is None:
        return "-"
    scale = 1 if task == "stories" else 100
    half = scale * (summary.high - summary.low) / 2
    mark = f"{summary.mark:.2f} ±{half:.2f}" if task == "stories" else f"{100 * summary.mark:.0f} ±{half:.0f}"
    # a loss that is sure is marked
    worse = " ↓" if summary.surest_loss > 0 and summary.loss > MARGINS[task] else ""
    return f"{mark}{worse} / {summary.per_forward:.2f} / {summary.per_token:.0f}"


def table(found: Found, settings: Sequence[tuple[str, str]]) -> str:
    """Rows of (what it is called, name of the setting)."""
    lines = ["| | " + " | ".join(TASKS) + " |", "|---|" + "---|" * len(TASKS)]
    for label, name in settings:
        if name in found:
            lines.append(f"| {label} | " + " | ".join(cell(task, found[name].get(task)) for task in TASKS) + " |")
    return "\n".join(lines)


def strategies_table(found: Found) -> str:
    """All knobs without a cache."""
    rows = [
        (f"`{entry.strategy}` {entry.knob}", entry.with_cache("none").name) for all in KNOBS.values() for entry in all
    ]
    return table(found, rows)


def caches_table(found: Found, strategy: str, knob: int = 0) -> str:
    """All caches under one strategy."""
    entry = KNOBS[strategy][knob]
    rows = [(f"`{strategy}` {entry.knob}, {cache}", entry.with_cache(cache).name) for cache in CACHES]
    return table(found, rows)


def lengths_table(found: Found) -> str:
    """Room that is given, and room that is found, in the task whose answers differ in length."""
    lines = ["| `threshold` | tables |", "|---|---|"]
    lines += [
        f"| {entry.knob} | {cell('tables', found[entry.name].get('tables'))} |"
        for entry in LENGTHS
        if entry.name in found
    ]
    return "\n".join(lines)


def ranking(found: Found) -> str:
    """Settings that lose nothing anywhere, the fewest positions per token first."""
    held = {name: by_task for name, by_task in found.items() if holds(by_task)}
    order = sorted(held, key=lambda name: mean_of(held[name], lambda summary: summary.per_token))
    lines = ["| setting | tokens per forward | positions per token |", "|---|---:|---:|"]
    for name in order:
        per_forward = mean_of(held[name], lambda summary: summary.per_forward)
        per_token = mean_of(held[name], lambda summary: summary.per_token)
        lines.append(f"| {name} | {per_forward:.2f} | {per_token:.1f} |")
    return "\n".join(lines)


def everything(found: Found) -> str:
    """All figures, as comma-separated values."""
    names = ("mark", "low", "high", "loss", "per_forward", "per_token", "models", "count")
    lines = ["setting,task," + ",".join(names)]
    for name, by_task in found.items():
        for task in TASKS:
            if task in by_task:
                values = [f"{getattr(by_task[task], entry):.4g}" for entry in names]
                lines.append(f'"{name}",{task},' + ",".join(values))
    return "\n".join(lines) + "\n"
