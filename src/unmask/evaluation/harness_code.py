"""Programs that a model writes, run against tests: the metric that the harness' code tasks ask for, in a sandbox.

The harness' tasks load `code_eval` from the Hub, which runs programs unprotected. They get this one instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from unmask.errors import ResourceError
from unmask.evaluation.code import judge, pass_at_k
from unmask.evaluation.sandbox import missing, protections

_IMPORT = re.compile(r"^[ \t]*(?:import|from)[ \t]+(\w+)", re.MULTILINE)
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


def check_tests(tasks: Mapping[str, Any]) -> None:
    """That programs can be confined here, and that what the tests import is there for them.

    Raises:
        ResourceError: a verdict could not be had, or would be wrong.
    """
    protections()
    for name, task in tasks.items():
        if task.config.unsafe_code:
            tests = [str(task.doc_to_target(doc)) for doc in task.eval_docs]
            # few texts are parsed: some tests are megabytes of numbers
            lost = missing(sorted({word for text in tests for word in _IMPORT.findall(text)}))
            lost = [word for word in lost if any(word in _imported(text) for text in tests if word in text)]
            if lost:
                raise ResourceError(
                    f"the tests of task {name} import {', '.join(lost)}, which the sandbox does not have: every "
                    "program would fail. It has the standard library, and numpy where that is installed. "
                    "Leave this task out."
                )


def _imported(text: str) -> set[str]:
    """The packages that a program imports; none where it is no program."""
    found: set[str] = set()
    with suppress(SyntaxError):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    return found
