"""Programs out of a model's text, and how many of them are right. Running them is the sandbox's."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from unmask.evaluation.sandbox import MEMORY_BYTES, TIMEOUT_SECONDS, Outcome, examine

_FENCED = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


def program_in(text: str) -> str:
    """The program that a text holds: its first fenced block, closed or not; without one, all of it."""
    match = _FENCED.search(text)
    return match.group(1) if match else text


def judge(
    programs: Sequence[str], tests: str, *, timeout_seconds: float = TIMEOUT_SECONDS, memory_bytes: int = MEMORY_BYTES
) -> list[Outcome]:
    """How programs for one problem do in its tests.

    Args:
        programs: equal ones are run once.
        tests: of HumanEval, with the line that calls `check`; of MBPP, its assertions.
        timeout_seconds, memory_bytes: for each.

    Raises:
        ResourceError: this machine cannot confine them.
    """
    limits = {"timeout_seconds": timeout_seconds, "memory_bytes": memory_bytes}
    found = {program: examine(program, tests, **limits) for program in dict.fromkeys(programs)}
    return [found[program] for program in programs]


def pass_at_k(count: int, right: int, k: int) -> float:
    """How probable it is that one of k programs is right, drawn from `count` of which `right` are.

    Unbiased for k fresh programs (Chen et al. 2021, "Evaluating large language models trained on code", eq. 1).

    Raises:
        ValueError: there are not k programs, or not so many.
    """
    if not (1 <= k <= count and 0 <= right <= count):
        raise ValueError(f"pass@{k} of {right} right programs out of {count} is not defined")
    return 1.0 - math.comb(count - right, k) / math.comb(count, k)
