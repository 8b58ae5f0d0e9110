"""Figures of an evaluation as one document, and as a page of tables in Markdown."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from unmask import __version__
from unmask.evaluation.baselines import BASELINES, Record
from unmask.evaluation.tables import METRICS, TableResults, fingerprint, score_predictions
from unmask.generation.options import GenerationOptions
from unmask.lm import DiffusionLM

SCHEMA = 1
_HEADS = {"em": "exact match", "f1": "F1", "denotation": "denotation"}


def document(results: TableResults, records: Sequence[Record], about: dict[str, Any]) -> dict[str, Any]:
    """Everything that a reader of the figures has to know, ready for JSON.

    Args:
        results: of the questions.
        records: the questions.
        about: what was evaluated, on what, how: see `about_model`.
    """
    baselines = {name: score_predictions(records, answer(records)).totals for name, answer in BASELINES.items()}
    return {
        "task": "tables",
        "schema": SCHEMA,
        "unmask": __version__,
        **about,
        "totals": results.totals,
        "breakdown": results.breakdown,
        "baselines": baselines,
        "notes": results.notes,
        "machine": {"system": platform.platform(), "torch": torch.__version__, "threads": torch.get_num_threads()},
    }


def about_model(lm: DiffusionLM, name: str, adapter: str | None, options: GenerationOptions) -> dict[str, Any]:
    """Which model answered, and how."""
    model = {
        "name": name,
        "adapter": adapter,
        "family": lm.family.name,
        "parameters": lm.model.num_parameters(),
        "fingerprint": fingerprint(lm),
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "device": str(lm.model.device),
    }
    return {"model": model, "decoding": asdict(options)}


def page(found: dict[str, Any]) -> str:
    """The document as Markdown: totals with the baselines, then a table per breakdown."""
    whole = {_answerer(found): found["totals"]}
    if "model" in found:
        whole |= {f"baseline: {name}": totals for name, totals in found["baselines"].items()}
    parts = [f"# Answers to {found['dataset_args']}", _table("", whole)]
    parts += [f"## By {name}\n\n{_table(name, groups)}" for name, groups in found["breakdown"].items()]
    parts += [f"{note}." for note in found["notes"]]
    parts.append("Percent, with 95 % intervals: Wilson's for exact match and denotation, bootstrap for F1.")
    return "\n\n".join(parts) + "\n"


def _answerer(found: dict[str, Any]) -> str:
    if "model" not in found:
        return f"baseline: {found['baseline']}"
    named = [found["model"]["name"], found["model"]["adapter"]]
    return " + ".join(name for name in named if name)


def _table(name: str, groups: dict[str, dict[str, Any]]) -> str:
    shown = [metric for metric in METRICS if any(metric in group for group in groups.values())]
    lines = [
        _row([name, "questions", *(_HEADS[metric] for metric in shown)]),
        _row(["---", *("---:" for _ in range(len(shown) + 1))]),
        *(
            _row([label, f"{group['count']:,}", *(_percent(group.get(metric)) for metric in shown)])
            for label, group in groups.items()
        ),
    ]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(figure: dict[str, float] | None) -> str:
    if figure is None:
        return ""
    return f"{100 * figure['mean']:.1f} ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"
