"""Two learning curves over epochs and compute: the best of each, where one crosses the other, sentences, a picture.

Knows rows of figures only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from unmask.evaluation.intervals import Z
from unmask.evaluation.report import Metric

Row = dict[str, Any]  # a line of points.jsonl
OBJECTIVES = ("autoregressive", "masked")
_COLOURS = {"autoregressive": "#c2461c", "masked": "#1f6fb4"}
_DASHES = ("", "6 3", "2 3")
_WIDTH, _HEIGHT = 430, 330  # of a panel, whose axes cross at the left and the bottom of what follows
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 418, 12, 290


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
    curves = {name: _of(points, unique_tokens, name) for name in OBJECTIVES}
    causal, masked = curves.values()
    exact = {row["epochs"]: row for row in causal}
    both = [(row, exact[row["epochs"]]) for row in masked if row["epochs"] in exact]
    found = {"same_epochs": _crossing(both, "epochs")}
    for cost in ("epochs", "flops"):
        reached = [(row, [one for one in causal if one[cost] <= row[cost]]) for row in masked]
        found[f"best_{cost}"] = _crossing([(row, _best(some)) for row, some in reached if some], cost)
    return {
        "unique_tokens": unique_tokens,
        "best": {name: _best(rows) for name, rows in curves.items() if rows},
        "epochs": {name: rows[-1]["epochs"] for name, rows in curves.items() if rows},
        "crossing": found,
    }


def _of(points: Sequence[Row], unique_tokens: int, objective: str) -> list[Row]:
    own = [row for row in points if (row["unique_tokens"], row["objective"]) == (unique_tokens, objective)]
    return sorted(own, key=lambda row: row["epochs"])


def _best(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: row["nll"])


def _crossing(pairs: Sequence[tuple[Row, Row]], cost: str) -> dict[str, float | None]:
    costs, gaps = [row[cost] for row, _ in pairs], [row["nll"] - other["nll"] for row, other in pairs]
    errors = [_error(row, other) for row, other in pairs]
    return {
        name: crossing(costs, [gap + sign * error for gap, error in zip(gaps, errors, strict=True)])
        for name, sign in (("at", 0), ("low", -1), ("high", 1))
    }


def _error(row: Row, other: Row) -> float:
    """Standard error of a gap, nats per token, from the gaps of all held-out rows: of the text and of the masks."""
    gaps = [one - two for one, two in zip(row["nats"], other["nats"], strict=True)]
    return math.sqrt(len(gaps)) * statistics.stdev(gaps) / row["tokens"] if len(gaps) > 1 else 0.0


def lowest(sizes: Sequence[dict[str, Any]]) -> dict[str, Metric]:
    """The best of each size and objective."""
    return {
        f"{objective}, {size['unique_tokens']:,} unique tokens": _nll(best)
        for size in sizes
        for objective, best in size["best"].items()
    }


def _nll(row: Row) -> Metric:
    reach = Z * (row["stderr"] or 0)
    ends = (row["nll"] - reach, row["nll"] + reach) if reach else ()
    return Metric(row["nll"], row["stderr"], len(row["nats"]), "nats per token", *ends)


def by_epoch(points: Sequence[Row]) -> dict[str, dict[str, dict[str, Metric]]]:
    """All points, as the breakdown of a report: size -> epoch -> what -> figure."""
    found: dict[str, dict[str, dict[str, Metric]]] = {}
    for row in sorted(points, key=lambda row: (row["unique_tokens"], row["epochs"], row["objective"])):
        size = found.setdefault(f"epochs, {row['unique_tokens']:,} unique tokens", {})
        own = {
            "nats/token": _nll(row),
            "bits/byte": Metric(row["bits_per_byte"], None, len(row["nats"])),
            "GFLOPs": Metric(row["flops"] / 1e9),
        }
        size.setdefault(f"{row['epochs']:,}", {}).update({f"{row['objective']}, {name}": own[name] for name in own})
    return found


def notes(sizes: Sequence[dict[str, Any]], stop_rising: float) -> tuple[str, ...]:
    """What came of each size, and what a reader of the figures has to know."""
    return (
        *(" ".join(_sentences(size, stop_rising)) for size in sizes),
        "autoregressive: exact, in nats per held-out token. masked: an upper bound, by exact-count masks; its standard "
        "error is of the masks. Crossings have the standard error of the gap over held-out rows, masks included.",
        "The learning rate is constant after the warmup: every point lies on one run, none was annealed for its epoch.",
    )


def _sentences(size: dict[str, Any], stop_rising: float) -> list[str]:
    best, ends = size["best"], size["epochs"]
    said = [f"{size['unique_tokens']:,} unique tokens:"]
    said += [
        f"{name} is lowest at epoch {row['epochs']:,}, {row['flops']:.3g} FLOPs: {row['nll']:.3f} nats/token, "
        f"{row['bits_per_byte']:.3f} bits/byte."
        for name, row in best.items()
    ]
    same, epochs, flops = (_place(size["crossing"][name]) for name in ("same_epochs", "best_epochs", "best_flops"))
    said.append(f"The curves cross at epoch {same}." if same else "The curves do not cross at equal epochs.")
    for place, where, there in ((epochs, "", "epoch {}"), (flops, "At equal compute ", "{} FLOPs")):
        below = f"the bound is below the lowest autoregressive loss so far from {there.format(place)} on."
        above = "the bound stays above the lowest autoregressive loss so far."
        told = where + (below if place else above)
        said.append(told[0].upper() + told[1:])
    if ends.get("autoregressive", 0) < ends.get("masked", 0):
        said.append(
            f"The autoregressive run was ended at epoch {ends['autoregressive']:,}, {stop_rising:g} times the epochs "
            "of its lowest loss (stop_rising)."
        )
    return said


def _place(found: dict[str, float | None]) -> str:
    """A crossing and its interval; empty: there is none."""
    if found["at"] is None:
        return ""
    low, high = (f"{found[end]:.3g}" if found[end] is not None else "not reached" for end in ("low", "high"))
    return f"{found['at']:.3g} ({low} to {high})"


def figure(sizes: Sequence[dict[str, Any]], points: Sequence[Row]) -> str:
    """Loss over epochs and over compute, as a picture that needs nothing else; a ring marks each best_ crossing."""
    width, height = 2 * _WIDTH, _HEIGHT + 18 * (len(sizes) + 1)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for number, cost in enumerate(("epochs", "flops")):
        parts.append(f'<g transform="translate({_WIDTH * number},0)">{_panel(sizes, points, cost)}</g>')
    for number, size in enumerate(sizes):
        for column, objective in enumerate(OBJECTIVES):
            x, y = _LEFT + 330 * column, _HEIGHT + 14 + 18 * number
            text = f"{objective}{', bound' if objective == 'masked' else ''}, {size['unique_tokens']:,} unique tokens"
            parts.append(_line([(x, y - 4), (x + 30, y - 4)], objective, number) + _text(x + 38, y, text))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(sizes: Sequence[dict[str, Any]], points: Sequence[Row], cost: str) -> str:
    """Nats per token over one cost, whose axis is logarithmic."""
    # first points, and a run that has long been rising, would squeeze all others: their lines leave the panel
    ceiling = 1.15 * max(best["nll"] for size in sizes for best in size["best"].values())
    nats, costs = [row["nll"] for row in points if row["nll"] <= ceiling], [math.log(row[cost]) for row in points]
    across, up = _scale(costs, _LEFT, _RIGHT), _scale(nats, _BOTTOM, _TOP)
    label = f"{'epochs' if cost == 'epochs' else 'FLOPs of training'}; held-out nats per token"
    parts = [_text(_RIGHT, _HEIGHT - 10, label, "end")]
    for part in range(5):
        mark = min(nats) + (max(nats) - min(nats)) * part / 4
        parts.append(f'<path d="M{_LEFT},{up(mark):.1f}H{_RIGHT}" stroke="#e2e2e2"/>')
        parts.append(_text(_LEFT - 6, up(mark) + 4, f"{mark:.2f}", "end"))
    base = math.log(4 if cost == "epochs" else 10)
    for power in range(math.ceil(min(costs) / base), math.floor(max(costs) / base) + 1):
        x = across(power * base)
        parts.append(f'<path d="M{x:.1f},{_TOP}V{_BOTTOM}" stroke="#e2e2e2"/>')
        parts.append(_text(x, _BOTTOM + 14, f"{math.exp(power * base):g}", "middle"))
    parts.append(f'<svg x="0" y="0" width="{_WIDTH}" height="{_BOTTOM}">')
    for number, size in enumerate(sizes):
        for objective in OBJECTIVES:
            own = _of(points, size["unique_tokens"], objective)
            places = [(across(math.log(row[cost])), up(row["nll"])) for row in own]
            parts.append(_line(places, objective, number))
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{_COLOURS[objective]}"/>' for x, y in places]
        place, best = size["crossing"][f"best_{cost}"]["at"], size["best"].get("autoregressive")
        if place is not None and best is not None:
            x, y = across(math.log(place)), up(best["nll"])
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="black"/>')
    return "".join([*parts, "</svg>"])


def _scale(values: Sequence[float], first: float, last: float) -> Callable[[float], float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or 0.5
    return lambda value: first + (last - first) * (value - low + room) / (high - low + 2 * room)


def _line(places: Sequence[tuple[float, float]], objective: str, number: int) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    look = f'stroke="{_COLOURS[objective]}" stroke-dasharray="{_DASHES[number % 3]}" stroke-width="2" fill="none"'
    return f'<polyline points="{joined}" {look}/>'


def _text(x: float, y: float, said: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}">{said}</text>'
