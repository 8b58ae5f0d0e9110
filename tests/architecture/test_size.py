"""Budgets of DESIGN rule 7: short functions, short files, few parameters.

A function's length is counted from its `def` to its last line, docstring included.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from statistics import median, quantiles

FUNCTION_MEDIAN, FUNCTION_P90, FUNCTION_MAX = 12, 40, 80
FILE_MAX, MODEL_FILE_MAX = 400, 600
PARAMETERS_MAX = 8

# `path:function` -> why it may be larger. Keep it short: three lines are a sign of a missing room.
EXCEPTIONS: dict[str, str] = {}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(sources: dict[str, str]) -> Iterator[tuple[str, Function]]:
    """Every function and method, nested ones too, with its `path:name`."""
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                yield f"{path}:{node.name}", node


def length(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def parameters(node: Function) -> int:
    """How many parameters a caller may give; `self` and `cls` are not counted."""
    named = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in named if name not in {"self", "cls"}])


def oversized(sources: dict[str, str]) -> list[str]:
    """One line for each function or file above its own limit."""
    found = []
    for place, node in functions(sources):
        if place in EXCEPTIONS:
            continue
        if length(node) > FUNCTION_MAX:
            found.append(f"{place} has {length(node)} lines, at most {FUNCTION_MAX}")
        if parameters(node) > PARAMETERS_MAX:
            found.append(
                f"{place} has {parameters(node)} parameters, at most {PARAMETERS_MAX}: group them in a dataclass"
            )
    for path, text in sources.items():
        limit = MODEL_FILE_MAX if path.startswith("models/") else FILE_MAX
        lines = text.count("\n")
        if lines > limit and path not in EXCEPTIONS:
            found.append(f"{path} has {lines} lines, at most {limit}")
    return found


def test_no_function_or_file_is_oversized(sources: dict[str, str]) -> None:
    assert not oversized(sources)


def test_most_functions_are_short(sources: dict[str, str]) -> None:
    lengths = [length(node) for _, node in functions(sources)]
    middle, high = median(lengths), quantiles(lengths, n=10)[-1]
    assert middle <= FUNCTION_MEDIAN, f"the median function has {middle} lines, at most {FUNCTION_MEDIAN}"
    assert high <= FUNCTION_P90, f"one function in ten has more than {high:.0f} lines, at most {FUNCTION_P90}"


def test_exceptions_exist(sources: dict[str, str]) -> None:
    known = {*sources, *(place for place, _ in functions(sources))}
    assert not EXCEPTIONS.keys() - known
    assert len(EXCEPTIONS) <= 3


def test_the_check_counts_right() -> None:
    long = "def f():\n" + "    pass\n" * 80
    wide = "class C:\n    def g(self, a, b, /, c, d, *, e, f, g, h, i): ...\n"
    fits = "def f():\n" + "    pass\n" * 79 + "class C:\n    def g(self, a, b, c, d, e, f, g, h): ...\n"
    assert oversized({"x.py": long}) == ["x.py:f has 81 lines, at most 80"]
    assert oversized({"x.py": wide}) == ["x.py:g has 9 parameters, at most 8: group them in a dataclass"]
    assert oversized({"x.py": fits}) == []
    assert oversized({"x.py": "\n" * 401, "models/x.py": "\n" * 600}) == ["x.py has 401 lines, at most 400"]
