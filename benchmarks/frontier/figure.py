"""The frontier as a picture that needs nothing else: one panel a task, one line a strategy or a cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from benchmarks.frontier.report import COLOURS, TASKS, Found, Summary
from benchmarks.frontier.settings import CACHES, KNOBS

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 430, 260, 52, 40, 24, 12
# far below all others on some task, which would squeeze the rest of its panel
LEFT_OUT = ("edit", "entropy_bounded", "random", "dream")
Line = tuple[str, list[str]]  # what it is called, names of settings


def strategies(found: Found) -> str:
    """Quality over tokens per forward, a line for each strategy without a cache."""
    lines = [(name, [entry.with_cache("none").name for entry in knobs]) for name, knobs in KNOBS.items()]
    return picture(found, lines, lambda summary: summary.per_forward, "tokens per forward")


def caches(found: Found) -> str:
    """Quality over positions per token, a colour for each cache, a point for each strategy."""
    shown = [knobs[0] for name, knobs in KNOBS.items() if name not in LEFT_OUT] + [KNOBS["threshold"][1]]
    lines = [(cache, [entry.with_cache(cache).name for entry in shown]) for cache in CACHES]
    return picture(found, lines, lambda summary: summary.per_token, "positions per token", is_joined=False)


def picture(
    found: Found, lines: Sequence[Line], cost: Callable[[Summary], float], label: str, is_joined: bool = True
) -> str:
    """Four panels and a legend."""
    legend = 18 * math.ceil(len(lines) / 6) + 12
    whole = (2 * WIDTH, 2 * HEIGHT + legend)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole[0]} {whole[1]}" font-family="sans-serif">']
    parts.append(f'<rect width="{whole[0]}" height="{whole[1]}" fill="white"/>')
    for number, task in enumerate(TASKS):
        x, y = WIDTH * (number % 2), HEIGHT * (number // 2)
        parts.append(f'<g transform="translate({x},{y})">{panel(found, task, lines, cost, label, is_joined)}</g>')
    for number, (name, _) in enumerate(lines):
        x, y = 20 + 140 * (number % 6), 2 * HEIGHT + 16 + 18 * (number // 6)
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{COLOURS[number]}"/>')
        parts.append(f'<text x="{x + 10}" y="{y}" font-size="12">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(
    found: Found, task: str, lines: Sequence[Line], cost: Callable[[Summary], float], label: str, is_joined: bool
) -> str:
    """One task."""
    curves = [[found[name][task] for name in names if task in found.get(name, {})] for _, names in lines]
    points = [summary for curve in curves for summary in curve]
    if not points:
        return ""
    across = _scale([math.log2(cost(summary)) for summary in points], LEFT, WIDTH - RIGHT)
    marks = [summary.mark for summary in points]
    up = _scale(marks, HEIGHT - BOTTOM, TOP) if task != "stories" else _scale(marks, TOP, HEIGHT - BOTTOM)
    parts = [_axes(task, [math.log2(cost(summary)) for summary in points], marks, across, up, label)]
    for number, curve in enumerate(curves):
        ordered = sorted(curve, key=cost)
        places = [f"{across(math.log2(cost(summary))):.1f},{up(summary.mark):.1f}" for summary in ordered]
        if is_joined:
            line = f'stroke="{COLOURS[number]}" stroke-width="1.5" opacity="0.7"'
            parts.append(f'<polyline points="{" ".join(places)}" fill="none" {line}/>')
        for place in places:
            x, y = place.split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{COLOURS[number]}" fill-opacity="0.8"/>')
    return "".join(parts)


def _scale(values: Sequence[float], first: float, last: float) -> Callable[[float], float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or 0.5
    return lambda value: first + (last - first) * (value - low + room) / (high - low + 2 * room)


def _axes(
    task: str,
    costs: Sequence[float],
    marks: Sequence[float],
    across: Callable[[float], float],
    up: Callable[[float], float],
    label: str,
) -> str:
    unit = "nats per token, less is better" if task == "stories" else "right answers, %"
    parts = [f'<text x="{LEFT}" y="16" font-size="13" font-weight="bold">{task}: {unit}</text>']
    for part in range(5):
        mark = min(marks) + (max(marks) - min(marks)) * part / 4
        text = f"{mark:.1f}" if task == "stories" else f"{100 * mark:.0f}"
        parts.append(f'<path d="M{LEFT},{up(mark):.1f}H{WIDTH - RIGHT}" stroke="#e2e2e2"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up(mark) + 4:.1f}" font-size="11" text-anchor="end">{text}</text>')
    for power in range(math.ceil(min(costs)), math.floor(max(costs)) + 1):
        x = f"{across(power):.1f}"
        parts.append(f'<path d="M{x},{TOP}V{HEIGHT - BOTTOM}" stroke="#e2e2e2"/>')
        parts.append(
            f'<text x="{x}" y="{HEIGHT - BOTTOM + 14}" font-size="11" text-anchor="middle">{2**power:g}</text>'
        )
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" font-size="11" text-anchor="end">{label}</text>')
    return "".join(parts)
