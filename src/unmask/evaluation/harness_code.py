"""Programs that a model writes, run against tests: the metric that the harness' code tasks ask for, in a sandbox.

The harness' tasks load `code_eval` from the Hub, which runs programs unprotected. They get this one instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

TIMEOUT_SECONDS = 5.0
MEMORY_BYTES = 1 << 30


class CodeMetric:
    """Stands in for the `code_eval` of Hugging Face's `evaluate`: the same call, the same figures."""

    def compute(
        self,
        *,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
        **_: Any,
    ) -> tuple[dict[str, float], dict[int, list[bool]]]:
        """pass@k of programs, and which of them passed.

        Args:
            references: a test for each problem: a program that raises where the one before it is wrong.
            predictions: programs for each problem.
            k: for which k; those above the number of programs are left out.
        """
        passed = {
            number: [passes(program, test) for program in programs]
            for number, (test, programs) in enumerate(zip(references, predictions, strict=True))
        }
        shares = {
            f"pass@{size}": sum(pass_at_k(len(one), sum(one), size) for one in passed.values()) / len(passed)
            for size in k
            if all(len(one) >= size for one in passed.values())
        }
        return shares, passed


@contextmanager
def code_metric() -> Iterator[None]:
    """Within it, whoever loads the metric `code_eval` gets the one that runs programs in a sandbox."""
    import evaluate  # pyright: ignore[reportMissingImports]

    usual = evaluate.load

    def load(path: str, *words: Any, **settings: Any) -> Any:
        return CodeMetric() if path == "code_eval" else usual(path, *words, **settings)

    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = usual


def passes(program: str, test: str) -> bool:
    """Whether a test, which the program cannot reach, finds nothing wrong with it within the limits."""
    from unmask.evaluation import sandbox

    return sandbox.examine(program, test, timeout_seconds=TIMEOUT_SECONDS, memory_bytes=MEMORY_BYTES).passed


def pass_at_k(count: int, right: int, k: int) -> float:
    """How probable it is that one of k programs passes, drawn from `count` of which `right` do (Chen et al. 2021)."""
    return 1.0 - math.comb(count - right, k) / math.comb(count, k)
