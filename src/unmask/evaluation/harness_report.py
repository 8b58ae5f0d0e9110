"""The harness' results in the form of all evaluations: one document, and cases that can be compared one by one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unmask.errors import ResourceError
from unmask.evaluation import report
from unmask.evaluation.answering import AnswerSettings
from unmask.evaluation.harness import HarnessOptions
from unmask.generation.player import finite

VERSION = 1
# in a single question this is no perplexity yet
_CASE_NAMES = {"perplexity": "log_likelihood"}


def result(
    results: dict[str, Any],
    names: Sequence[str],
    model: dict[str, Any],
    answering: AnswerSettings,
    options: HarnessOptions,
    **told: Any,
) -> report.Result:
    """What the harness found, groups before tasks.

    Args:
        results: of `evaluate_tasks`.
        names: of the tasks, as they were asked for.
        model: see `report.model_facts`.
        answering, options: how it was evaluated.
        **told: data, seconds and notes of the result.
    """
    groups = results.get("groups", {})
    tasks = {name: found for name, found in results["results"].items() if name not in groups}
    counts = {name: results.get("n-samples", {}).get(name, {}) for name in tasks}
    within = {name: sum(counts[task].get("effective", 0) for task in _leaves(name, results)) for name in groups}
    metrics = {
        f"{name} {label}": metric
        for name, found in {**groups, **tasks}.items()
        for label, metric in _metrics(found, within.get(name) or counts.get(name, {}).get("effective", 0))
    }
    about = {
        name: {
            "version": results["versions"].get(name),
            "num_fewshot": results.get("n-shot", {}).get(name),
            "of": counts[name].get("original"),
        }
        for name in tasks
    }
    settings = {"lm_eval": version("lm_eval"), "tasks": about, **asdict(options), **asdict(answering)}
    named = ", ".join(names)
    return report.Result(named, VERSION, metrics=metrics, model=model, settings=settings, seed=answering.seed, **told)


def cases(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each question with its answer and its own figures, all filters together."""
    for task, rows in results["samples"].items():
        found: dict[int, dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: row["doc_id"]):
            case = found.setdefault(row["doc_id"], _case(task, row))
            figures = {_label(str(_CASE_NAMES.get(name, name)), row["filter"]): row[name] for name in row["metrics"]}
            case["metrics"] |= {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
        yield from found.values()


def write_cases(folder: Path, found: Iterator[dict[str, Any]]) -> None:
    """The cases as JSON lines.

    Raises:
        ResourceError: they cannot be written.
    """
    file = folder / report.CASES
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(finite(case), ensure_ascii=False) + "\n" for case in found)
        os.replace(part, file)
    except OSError as error:
        raise ResourceError(f"cannot write {file}: {error.strerror or error}. Choose another folder.") from None


def _case(task: str, row: dict[str, Any]) -> dict[str, Any]:
    answers = row["filtered_resps"]
    return {
        # the hash tells the question apart from another model's prompt of it
        "id": f"{task} {row['doc_id']} {row['doc_hash'][:8]}",
        "kind": task,
        "gold": str(row["target"]),
        "prediction": answers[0] if len(answers) == 1 else answers,
        "metrics": {},
    }


def _leaves(name: str, results: dict[str, Any]) -> list[str]:
    below = results.get("group_subtasks", {}).get(name)
    return [name] if below is None else [leaf for child in below for leaf in _leaves(child, results)]


def _metrics(found: dict[str, Any], count: int) -> Iterator[tuple[str, report.Metric]]:
    for key, value in found.items():
        metric, comma, filtered = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            error = found.get(f"{metric}_stderr,{filtered}")
            yield _label(metric, filtered), report.Metric(value, error if isinstance(error, float) else None, count)


def _label(metric: str, filtered: str) -> str:
    return metric if filtered == "none" else f"{metric} ({filtered})"
