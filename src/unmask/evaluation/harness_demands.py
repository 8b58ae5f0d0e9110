"""Whether what is asked of the harness' tasks can be had of them, before a model is loaded. Knows tasks, no models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unmask.errors import ConfigError
from unmask.evaluation.harness_choices import comparisons

# of a question with a text before and one behind what is missing
BLANK = frozenset({"prompt", "suffix", "canonical_solution"})


def check_examples(tasks: dict[str, Any], num_fewshot: int | None) -> list[str]:
    """What a reader of the figures has to know of the examples before the questions.

    Args:
        tasks: name -> the harness' Task.
        num_fewshot: as it was asked for; None: each task's own number.

    Raises:
        ConfigError: a task has fewer examples.
    """
    notes = []
    for name, task in tasks.items():
        own = task.get_config("num_fewshot")
        # the harness leaves a task alone that says itself that it has none
        shots = own or 0 if own == 0 or num_fewshot is None else num_fewshot
        if num_fewshot and own == 0:
            notes.append(f"{name}: asks without examples, whatever num_fewshot is.")
        if shots > 0:
            notes += _drawn(name, task, shots)
    return notes


def _drawn(name: str, task: Any, shots: int) -> list[str]:
    if getattr(task, "sampler", None) is None:
        return []
    config = task.config
    are_questions = config.test_split is not None and task.fewshot_cfg.split == config.test_split
    there = len(task.sampler.df) - are_questions
    if shots > there:
        beside = " beside the question" if are_questions else ""
        raise ConfigError(
            f"num_fewshot is {shots:,}, and {name} has {there:,} examples{beside}. Ask for no more than that."
        )
    return (
        [f"{name}: there is no other part for examples, which are drawn from the questions."] if are_questions else []
    )


def check_meaning(tasks: dict[str, Any], *, infills: bool, settles: bool) -> None:
    """Refuse what would change nothing.

    Args:
        tasks: name -> the harness' Task.
        infills: blanks are to be filled in. settles: choices are to be scored until the best is settled.

    Raises:
        ConfigError: there is no task with such questions.
    """
    if infills and not any(set(doc) >= BLANK for _, doc in _first(tasks)):
        raise ConfigError(
            f"infill_tokens is for questions with a text before and one behind what is missing, as humaneval-infilling "
            f"has; there is none in {_named(tasks)}. Leave it out."
        )
    if settles and not any(comparisons(task, doc) for task, doc in _first(tasks)):
        raise ConfigError(f"settle is for multiple choice, and there is none in {_named(tasks)}. Leave it out.")


def _first(tasks: dict[str, Any]) -> Iterable[tuple[Any, Any]]:
    return ((task, next(iter(task.eval_docs), {})) for task in tasks.values())


def _named(tasks: dict[str, Any]) -> str:
    return f"{', '.join(list(tasks)[:3])}{' and others' if len(tasks) > 3 else ''}"
