"""Programs that a model writes, run against tests: the metric that the harness' code tasks ask for, in a sandbox.

The harness' tasks load `code_eval` from the Hub, which runs programs unprotected. They get this one instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from unmask.evaluation.code import judge, pass_at_k

LIMITS: dict[str, Any] = {"timeout_seconds": 5.0, "memory_bytes": 1 << 30}


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
            number: [outcome.passed for outcome in judge(programs, test, **LIMITS)]
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
