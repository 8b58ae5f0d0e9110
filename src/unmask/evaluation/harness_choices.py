"""What a task of the harness makes of the log-likelihoods of its choices: which comparisons decide. Knows no models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# what a metric divides log-likelihoods by before it takes the best; nothing where it takes none
_SIZES: Mapping[str, Callable[[str], float] | None] = {
    "acc": lambda choice: 1.0,
    "f1": lambda choice: 1.0,
    "mcc": lambda choice: 1.0,
    "acc_norm": lambda choice: float(len(choice)),
    "acc_bytes": lambda choice: float(len(choice.encode())),
    "exact_match": None,
}


def comparisons(task: Any, doc: Any) -> list[tuple[float, ...]] | None:
    """For each comparison that a task makes of the choices of a question, what their log-likelihoods are divided by.

    None where it makes more of them than to take the best, or is no multiple choice.
    """
    metrics = list(getattr(task, "_metric_fn_list", {}))
    if task.OUTPUT_TYPE != "multiple_choice" or callable(task.config.process_results) or set(metrics) - set(_SIZES):
        return None
    choices = [str(choice) for choice in task.doc_to_choice(doc)]
    made = [tuple(max(size(choice), 1.0) for choice in choices) for size in map(_SIZES.get, metrics) if size]
    return list(dict.fromkeys(made)) or None


def told_apart(entries: Sequence[Any], tasks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings of the requests for some of the harness' instances, which say whose rivals they are.

    Of each choice that is compared with others: `question`, which all choices of a question share; `choice`, which of
    them it is; `sizes`, what its log-likelihood is divided by in each comparison. Of all else nothing.
    """
    questions: dict[tuple[str, int], dict[int, Any]] = {}
    for entry in entries:
        questions.setdefault((entry.task_name, entry.doc_id), {})[entry.idx] = entry
    made: dict[tuple[str, int], tuple[str, list[tuple[float, ...]]]] = {}
    for name, choices in questions.items():
        sizes = comparisons(tasks[name[0]], choices[min(choices)].doc)
        if sizes is not None and all(len(one) == len(choices) for one in sizes):
            asked = json.dumps([[list(choices[idx].args[:2]) for idx in sorted(choices)], sizes], ensure_ascii=False)
            made[name] = hashlib.sha256(asked.encode()).hexdigest()[:24], sizes
    return [_settings(entry.idx, *made.get((entry.task_name, entry.doc_id), ("", []))) for entry in entries]


def _settings(choice: int, question: str, sizes: list[tuple[float, ...]]) -> dict[str, Any]:
    return {"question": question, "choice": choice, "sizes": [one[choice] for one in sizes]} if question else {}
