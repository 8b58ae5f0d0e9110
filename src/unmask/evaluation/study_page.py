"""Two learning curves over epochs and compute: the best of each, where one crosses the other, a table, a picture.

Knows rows of figures only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]  # a line of points.jsonl
OBJECTIVES = ("autoregressive", "masked")
_COLOURS = {"autoregressive": "#c2461c", "masked": "#1f6fb4"}
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 430, 330, 52, 12, 40


def has_risen(rows: Sequence[Row], times: float) -> bool:
    """Whether a run is `times` as long as it was at its lowest loss, and has got worse since; never for 0."""
    if not rows or not times:
        return False
    best, last = _best(rows), max(rows, key=lambda row: row["epochs"])
    return last["epochs"] >= times * best["epochs"] and last["nll"] > best["nll"]


def crossing(costs: Sequence[float], gaps: Sequence[float]) -> float | None:
    """The cost from which on no gap is above 0, between points linear in the gap over the logarithm of the cost.

    Args:
        costs: rising, above 0. gaps: one for each.

    Returns:
        None: the last gap is above 0, or there is none. The first cost: no gap is.
    """
    above = [index for index, gap in enumerate(gaps) if gap > 0]
    if not gaps or (above and above[-1] == len(gaps) - 1):
        return None
    if not above:
        return costs[0]
    low, high = above[-1], above[-1] + 1
    share = gaps[low] / (gaps[low] - gaps[high])
    return costs[low] * (costs[high] / costs[low]) ** share


def compared(points: Sequence[Row], unique_tokens: int) -> dict[str, Any]:
    """The best of each objective and the crossings, of the points of one size.

    `same_epochs` is where the curves cross. `best_epochs` and `best_flops` are where the bound falls below the lowest
    autoregressive loss that as many epochs, or as much compute, reach: early stopping is granted to the baseline.
    `low` and `high` are where it does so if all gaps are a standard error smaller or larger; None: beyond the points.
    """
    causal, masked = (_of(points, unique_tokens, objective) for objective in OBJECTIVES)
    epochs = {row["epochs"] for row in causal}
    both = [
        (row, next(one for one in causal if one["epochs"] == row["epochs"]))
        for row in masked
        if row["epochs"] in epochs
    ]
    found = {"same_epochs": _crossing(both, "epochs")}
    for cost in ("epochs", "flops"):
        reached = [(row, [one for one in causal if one[cost] <= row[cost]]) for row in masked]
        found[f"best_{cost}"] = _crossing([(row, _best(some)) for row, some in reached if some], cost)
    best = {name: _brief(_best(rows)) for name, rows in zip(OBJECTIVES, (causal, masked), strict=True) if rows}
    ends = {name: rows[-1]["epochs"] for name, rows in zip(OBJECTIVES, (causal, masked), strict=True) if rows}
    return {"unique_tokens": unique_tokens, "best": best, "epochs": ends, "crossing": found}


def _of(points: Sequence[Row], unique_tokens: int, objective: str) -> list[Row]:
    own = [row for row in points if (row["unique_tokens"], row["objective"]) == (unique_tokens, objective)]
    return sorted(own, key=lambda row: row["epochs"])


def _best(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: row["nll"])


def _brief(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("nats", "seconds")}


def _crossing(pairs: Sequence[tuple[Row, Row]], cost: str) -> dict[str, float | None]:
    costs, gaps = [row[cost] for row, _ in pairs], [row["nll"] - other["nll"] for row, other in pairs]
    errors = [_error(row, other) for row, other in pairs]
    shifted = {"at": 0.0, "low": -1.0, "high": 1.0}
    return {
        name: crossing(costs, [gap + sign * error for gap, error in zip(gaps, errors, strict=True)])
        for name, sign in shifted.items()
    }


def _error(row: Row, other: Row) -> float:
    """Standard error of a gap, nats per token, from the gaps of all held-out rows: of the text and of the masks."""
    gaps = [one - two for one, two in zip(row["nats"], other["nats"], strict=True)]
    mean = sum(gaps) / len(gaps)
    spread = sum((gap - mean) ** 2 for gap in gaps) / max(len(gaps) - 1, 1)
    return math.sqrt(len(gaps) * spread) / row["tokens"]


def notes(sizes: Sequence[dict[str, Any]], stop_rising: float) -> tuple[str, ...]:
    """Sentences that a reader of the figures has to know."""
    said = [
        "autoregressive: exact, in nats per held-out token. masked: an upper bound, by exact-count masks; its standard "
        "error is of the masks. Crossings have the standard error of the gap over held-out rows, masks included.",
        "The learning rate is constant after the warmup: every point lies on one run, none was annealed for its epoch.",
    ]
    for size in sizes:
        ends = size["epochs"]
        if ends.get("autoregressive", 0) < ends.get("masked", 0):
            said.append(
                f"{size['unique_tokens']:,} tokens: the autoregressive run was ended at epoch "
                f"{ends['autoregressive']:,}, {stop_rising:g} times the epochs of its lowest loss (stop_rising)."
            )
    return tuple(said)


def page(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [f"# {found['task']}: {found['data']}", ""]
    for size in found["sizes"]:
        unique = size["unique_tokens"]
        lines += [f"## {unique:,} unique tokens", "", *_table(found["points"], unique), "", *_sentences(size), ""]
    lines += [f"{note}\n" for note in found["notes"]]
    commit = f", commit {found['commit']}" if found["commit"] else ""
    made = f"unmask {found['unmask']}{commit}, {found['at']}, {found['seconds']:,.0f} s of training"
    return "\n".join([*lines, f"Seed {found['seed']}, by {made}."]) + "\n"


def _table(points: Sequence[Row], unique: int) -> list[str]:
    causal, masked = ({row["epochs"]: row for row in _of(points, unique, objective)} for objective in OBJECTIVES)
    lines = [
        "| epochs | FLOPs, autoregressive | nats/token | bits/byte | FLOPs, masked | nats/token, bound | bits/byte |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for epoch in sorted({*causal, *masked}):
        cells = _cells(causal.get(epoch)) + _cells(masked.get(epoch))
        lines.append(f"| {epoch:,} | {' | '.join(cells)} |")
    return lines


def _cells(row: Row | None) -> list[str]:
    if row is None:
        return ["", "", ""]
    error = f" ± {row['stderr']:.3f}" if row["stderr"] else ""
    return [f"{row['flops']:.3g}", f"{row['nll']:.3f}{error}", f"{row['bits_per_byte']:.3f}"]


def _sentences(size: dict[str, Any]) -> list[str]:
    said = [
        f"- lowest, {name}: {best['nll']:.3f} nats/token, {best['bits_per_byte']:.3f} bits/byte, at epoch "
        f"{best['epochs']:,}, {best['flops']:.3g} FLOPs"
        for name, best in size["best"].items()
    ]
    places = size["crossing"]
    same, epochs, flops = (_place(places[name]) for name in ("same_epochs", "best_epochs", "best_flops"))
    above = "the bound stays above the lowest autoregressive loss so far"
    return [
        *said,
        f"- the curves cross at epoch {same}" if same else "- the curves do not cross at equal epochs",
        f"- the bound is below the lowest autoregressive loss so far from epoch {epochs}" if epochs else f"- {above}",
        f"- at equal compute it is so from {flops} FLOPs" if flops else f"- at equal compute {above}",
    ]


def _place(found: dict[str, float | None]) -> str:
    """A crossing and its interval; empty: there is none."""
    if found["at"] is None:
        return ""
    low, high = (f"{found[end]:.3g}" if found[end] is not None else "not reached" for end in ("low", "high"))
    return f"{found['at']:.3g} ({low} to {high})"


def figure(sizes: Sequence[dict[str, Any]], points: Sequence[Row]) -> str:
    """Loss over epochs and over compute, as a picture that needs nothing else; a ring marks each best_ crossing."""
    legend = 18 * (len(sizes) + 1)
    whole = f"0 0 {2 * _WIDTH} {_HEIGHT + legend}"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{whole}" font-family="sans-serif">']
    parts.append(f'<rect width="{2 * _WIDTH}" height="{_HEIGHT + legend}" fill="white"/>')
    for number, cost in enumerate(("epochs", "flops")):
        parts.append(f'<g transform="translate({_WIDTH * number},0)">{_panel(sizes, points, cost)}</g>')
    for number, size in enumerate(sizes):
        for column, objective in enumerate(OBJECTIVES):
            x, y = _LEFT + 330 * column, _HEIGHT + 14 + 18 * number
            text = f"{objective}{', bound' if objective == 'masked' else ''}, {size['unique_tokens']:,} unique tokens"
            parts.append(f'<path d="M{x},{y - 4}h30" {_stroke(objective, number)}/>{_text(x + 38, y, text)}')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _stroke(objective: str, number: int) -> str:
    dashes = ("", ' stroke-dasharray="6 3"', ' stroke-dasharray="2 3"')[number % 3]
    return f'stroke="{_COLOURS[objective]}" stroke-width="2" fill="none"{dashes}'


def _panel(sizes: Sequence[dict[str, Any]], points: Sequence[Row], cost: str) -> str:
    """Nats per token over one cost, whose axis is logarithmic."""
    across = _scale([math.log2(row[cost]) for row in points], _LEFT, _WIDTH - 12)
    # first points, and a run that has long been rising, would squeeze all others: their lines leave the panel
    ceiling = 1.15 * max(best["nll"] for size in sizes for best in size["best"].values())
    shown = [row["nll"] for row in points if row["nll"] <= ceiling]
    up = _scale(shown, _HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(points, shown, cost, across, up), f'<g clip-path="url(#{cost})"><clipPath id="{cost}">']
    parts.append(
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH - _LEFT}" height="{_HEIGHT - _BOTTOM - _TOP}"/></clipPath>'
    )
    for number, size in enumerate(sizes):
        for objective in OBJECTIVES:
            own = _of(points, size["unique_tokens"], objective)
            places = [(across(math.log2(row[cost])), up(row["nll"])) for row in own]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{line}" {_stroke(objective, number)}/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{_COLOURS[objective]}"/>' for x, y in places]
        place, best = size["crossing"][f"best_{cost}"]["at"], size["best"].get("autoregressive")
        if place is not None and best is not None:
            x, y = across(math.log2(place)), up(best["nll"])
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="black"/>')
    return "".join([*parts, "</g>"])


def _scale(values: Sequence[float], first: float, last: float) -> Callable[[float], float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or 0.5
    return lambda value: first + (last - first) * (value - low + room) / (high - low + 2 * room)


def _axes(
    points: Sequence[Row],
    shown: Sequence[float],
    cost: str,
    across: Callable[[float], float],
    up: Callable[[float], float],
) -> str:
    low, high = min(shown), max(shown)
    parts = []
    for part in range(5):
        mark = low + (high - low) * part / 4
        parts.append(f'<path d="M{_LEFT},{up(mark):.1f}H{_WIDTH - 12}" stroke="#e2e2e2"/>')
        parts.append(_text(_LEFT - 6, up(mark) + 4, f"{mark:.2f}", "end"))
    base = 4.0 if cost == "epochs" else 10.0
    first, last = (math.log(end(row[cost] for row in points), base) for end in (min, max))
    for power in range(math.ceil(first), math.floor(last) + 1):
        x = across(math.log2(base**power))
        parts.append(f'<path d="M{x:.1f},{_TOP}V{_HEIGHT - _BOTTOM}" stroke="#e2e2e2"/>')
        parts.append(_text(x, _HEIGHT - _BOTTOM + 14, f"{base**power:g}", "middle"))
    label = "epochs" if cost == "epochs" else "FLOPs of training"
    parts.append(_text(_WIDTH - 12, _HEIGHT - 10, f"{label}; held-out nats per token", "end"))
    return "".join(parts)


def _text(x: float, y: float, said: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}">{said}</text>'
