"""Results of any evaluation: one JSON document, a table in Markdown, a page that needs no network.

Knows figures and who produced them; no task, no metric.
"""

from __future__ import annotations

import html
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import unmask
from unmask.errors import DataError, ResourceError
from unmask.evaluation.trained_by import trained_by
from unmask.generation.player import asset, finite
from unmask.lm import DiffusionLM
from unmask.lm.identity import fingerprint

SCHEMA = "unmask-evaluation/1"
SHARE = "share"
RESULTS, PAGE, WEB_PAGE, CASES = "results.json", "results.md", "results.html", "cases.jsonl"
_STYLE = """
main { overflow-x: auto }
h2 { margin-top: 1.6em }
table { border-collapse: collapse; margin: .8em 0 }
td, th { padding: .25em .9em; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line) }
p { margin-top: .8em }
svg { font-size: 10px; fill: currentColor }
rect { fill: #4477aa }
"""


@dataclass(frozen=True)
class Metric:
    """A figure.

    Attributes:
        mean: the figure. stderr: its standard error; None: not known.
        count: of how many cases. unit: nats per token, ...; a `share`, from 0 to 1, is shown in per cent.
        low, high: what holds it 95 times in 100, where known.
    """

    mean: float
    stderr: float | None = None
    count: int = 0
    unit: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Curve:
    """A figure by something; `points` are (from, to, value)."""

    title: str
    across: str
    unit: str
    points: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes:
        task, version: what was evaluated, and a number that changes when figures of the same task are not comparable.
        data: where its cases come from.
        metrics: name -> figure. curves: figures by something.
        breakdown: of parts of the cases, or of other answers to them: what tells them apart -> which -> name -> figure.
        model: see `model_facts`; None: no model was asked.
        settings: everything else that the figures depend on: of decoding, of scoring.
        seed: of whatever was drawn. seconds: it took.
        notes: sentences that a reader of the figures has to know.
    """

    task: str
    version: int
    data: str
    metrics: dict[str, Metric]
    model: dict[str, Any] | None
    settings: dict[str, Any]
    seed: int
    seconds: float
    curves: tuple[Curve, ...] = ()
    breakdown: dict[str, dict[str, dict[str, Metric]]] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=())


def model_facts(lm: DiffusionLM, name: str, adapter: str | None = None) -> dict[str, Any]:
    """Which model it was; `fingerprint` changes with any training."""
    return {
        "name": name,
        "adapter": adapter,
        "family": lm.family.name,
        "attention": lm.model.facts.attention,
        "parameters": lm.model.num_parameters(),
        "fingerprint": fingerprint(lm),
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "device": lm.model.device.type,
    }


def document(result: Result) -> dict[str, Any]:
    """The result with what ran it, ready for JSON: null stands for a figure that is no finite number."""
    machine = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    made = {"unmask": unmask.__version__, "commit": commit(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    model = result.model or {}
    trained = {"recipe": trained_by(model["name"], model["adapter"]) if model else None}
    found = finite({"schema": SCHEMA, **asdict(result), **trained, **made, "machine": machine})
    for curve in found["curves"]:
        curve["points"] = [point for point in curve["points"] if None not in point]
    return found


def commit() -> str | None:
    """The commit of the package, where it runs from a checkout; `+` says that files differ from it."""
    root = Path(unmask.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    asked = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def write(folder: Path, found: dict[str, Any]) -> None:
    """The document as results.json, results.md and results.html.

    Raises:
        ResourceError: they cannot be written.
    """
    texts = {
        RESULTS: json.dumps(found, indent=2, ensure_ascii=False) + "\n",
        PAGE: page(found),
        WEB_PAGE: web_page(found),
    }
    for name, text in texts.items():
        part = folder / f"{name}.part"
        try:
            part.write_text(text, encoding="utf-8")
            os.replace(part, folder / name)
        except OSError as error:
            raise ResourceError(f"cannot write {folder / name}: {error.strerror or error}.") from None


def read(place: Path) -> dict[str, Any]:
    """A document, given its file or folder.

    Raises:
        DataError: there is none.
    """
    file = place / RESULTS if place.is_dir() else place
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}. Give the folder of an evaluation.") from None
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error}). Give the folder of an evaluation.") from None
    if not isinstance(found, dict) or "task" not in found:
        raise DataError(f"{file} holds no results of an evaluation. Give the folder that one has written.")
    return found


def page(found: dict[str, Any]) -> str:
    """The document as Markdown."""
    lines = [f"# {found['task']}: {found['data']}"]
    for title, rows in _tables(found):
        head, *body = (f"| {' | '.join(map(_in_a_row, row))} |" for row in rows)
        lines += ["", *([f"## {title}", ""] if title else []), head, f"|---{'|---:' * (len(rows[0]) - 1)}|", *body]
    for curve in found["curves"]:
        head = ["", f"## {curve['title']}", "", f"| {curve['across']} | {curve['unit']} |", "|---|---:|"]
        lines += [*head, *(f"| {low:g} to {high:g} | {value:.4f} |" for low, high, value in curve["points"])]
    return "\n".join([*lines, "", *(f"{note}\n" for note in found["notes"]), _made(found)]) + "\n"


Rows = list[tuple[str, ...]]


def _tables(found: dict[str, Any]) -> list[tuple[str, Rows]]:
    """Title and rows, the heads first: of all cases, and of each breakdown."""
    parts = [(f"By {name}", _groups(name, groups)) for name, groups in found["breakdown"].items()]
    return [("", _totals(found["metrics"])), *parts]


def _totals(metrics: dict[str, dict[str, Any]]) -> Rows:
    between = any(metric["low"] is not None for metric in metrics.values())
    head = ("metric", "value", *(["95 % interval"] if between else []), "standard error", "cases")
    return [head, *((name, *_figures(metric, between)) for name, metric in metrics.items())]


def _figures(metric: dict[str, Any], between: bool) -> tuple[str, ...]:
    unit = "" if metric["unit"] in ("", SHARE) else f" {metric['unit']}"
    error = "" if metric["stderr"] is None else _error(metric)
    interval = ("",) if metric["low"] is None else (f"{_number(metric, 'low')} to {_number(metric, 'high')}",)
    unit = " %" if metric["unit"] == SHARE else unit
    value = f"{_number(metric, 'mean')}{unit if metric['mean'] is not None else ''}"
    return value, *(interval if between else ()), error, f"{metric['count']:,}"


def _groups(name: str, groups: dict[str, dict[str, Any]]) -> Rows:
    """A row per group, a column per metric."""
    shown = list(dict.fromkeys(metric for group in groups.values() for metric in group))
    rows = [(label, _cases(group), *(_value(group.get(metric)) for metric in shown)) for label, group in groups.items()]
    return [(name, "cases", *shown), *rows]


def _cases(group: dict[str, dict[str, Any]]) -> str:
    return f"{max((metric['count'] for metric in group.values()), default=0):,}"


def _value(metric: dict[str, Any] | None) -> str:
    if metric is None:
        return ""
    between = "" if metric["low"] is None else f" ({_number(metric, 'low')} to {_number(metric, 'high')})"
    return f"{_number(metric, 'mean')}{between}"


def _number(metric: dict[str, Any], name: str) -> str:
    value = metric[name]
    if value is None:
        return "not finite"
    return f"{100 * value:.1f}" if metric["unit"] == SHARE else f"{value:.4f}"


def _error(metric: dict[str, Any]) -> str:
    return f"{100 * metric['stderr']:.2g}" if metric["unit"] == SHARE else f"{metric['stderr']:.2g}"


def _in_a_row(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _made(found: dict[str, Any]) -> str:
    model, version = found["model"] or {}, f"unmask {found['unmask']}"
    by = f"{model['name']} ({model['family']}, {model['fingerprint']})" if model else "no model"
    at = f", commit {found['commit']}" if found["commit"] else ""
    return f"Of {by}, seed {found['seed']}, by {version}{at}, {found['at']}, in {found['seconds']:.0f} s."


def web_page(found: dict[str, Any]) -> str:
    """The document as a page with its curves drawn, complete in itself."""
    tables = "".join(_drawn_table(title, rows) for title, rows in _tables(found))
    drawn = "".join(f"<h2>{html.escape(curve['title'])}</h2>{_drawing(curve)}" for curve in found["curves"])
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in (*found["notes"], _made(found)))
    told = html.escape(json.dumps({name: found[name] for name in ("model", "recipe", "settings", "machine")}, indent=1))
    title = html.escape(f"{found['task']}: {found['data']}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{asset('page.css')}{_STYLE}</style>"
        f"<body><main><h1>{title}</h1>{tables}{drawn}{notes}"
        f"<details><summary>All settings</summary><pre>{told}</pre></details></main></body></html>\n"
    )


def _drawn_table(title: str, rows: Rows) -> str:
    named = f"<h2>{html.escape(title)}</h2>" if title else ""
    return f"{named}<table>{_cells('th', rows[0])}{''.join(_cells('td', row) for row in rows[1:])}</table>"


def _cells(kind: str, texts: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{html.escape(text)}</{kind}>' for text in texts)}</tr>"


def _drawing(curve: dict[str, Any]) -> str:
    """Bars, as a drawing of 660 by 220 points."""
    points = curve["points"]
    top, width = max((point[2] for point in points), default=0.0) or 1.0, 600 / max(len(points), 1)
    scale = 170 / top
    bars = [_bar(40 + i * width, width - 3, scale * max(point[2], 0.0), point) for i, point in enumerate(points)]
    names = _text(40, 218, curve["across"]) + _text(40, 12, curve["unit"])
    return f'<svg viewBox="0 0 660 220" width="660" role="img">{"".join(bars)}{names}</svg>'


def _bar(left: float, width: float, height: float, point: Sequence[float]) -> str:
    low, high, value = point
    box = f'<rect x="{left:.1f}" y="{195 - height:.1f}" width="{width:.1f}" height="{height:.1f}">'
    named = f"{box}<title>{low:g} to {high:g}: {value:.4f}</title></rect>"
    return named + _text(left, 206, f"to {high:g}") + _text(left, 190 - height, f"{value:.2f}")


def _text(left: float, top: float, said: str) -> str:
    return f'<text x="{left:.1f}" y="{top:.1f}">{html.escape(said)}</text>'
