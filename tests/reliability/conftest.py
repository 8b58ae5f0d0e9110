"""The promises of a run that cannot be lost, each with a figure: small in `make test`, whole in `make reliability`.

`UNMASK_RELIABILITY=whole` makes them whole. A test that proves a promise says its figure through `figure`; all of them
are printed at the end, and how many tests of `ELSEWHERE`, which `make reliability` runs too, have passed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

IS_WHOLE = os.environ.get("UNMASK_RELIABILITY") == "whole"
# promises that need no harness: their tests are whole in `make test`
ELSEWHERE = {
    "R7 ": ("training/test_recipe.py", "a changed recipe is refused with both values"),
    "R9 ": (
        "training/test_safekeeping.py",
        "the last whole checkpoint is never deleted; damaged ones are passed over",
    ),
    "R14": ("training/test_guard.py", "updates that are no numbers reach no weights; a hang shows its stacks (R17)"),
    "R15": ("training/test_spikes.py", "a jump of the loss is told with its samples"),
    "R16": ("training/test_shortage.py", "missing memory is explained, with settings that fit"),
    "R18": ("training/test_trackers.py", "a tracker that fails stops nothing"),
    "R20": ("data/test_prepare.py", "damaged and half-written folders of tokens are found (R21)"),
    "R19": ("data/test_bad_data.py", "broken files are named, with the place"),
    "R22": ("data/test_build.py", "data that teaches nothing is told"),
}


@pytest.fixture(scope="session")
def count() -> Callable[[int, int], int]:
    """The first number in `make test`, the second in `make reliability`."""
    return lambda short, whole: whole if IS_WHOLE else short


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say what a test has shown."""
    return lambda text: record_property("figure", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not IS_WHOLE:
        return
    ended = {how: _reports(terminalreporter, how) for how in ("passed", "failed", "error")}
    said = [str(text) for report in ended["passed"] for name, text in report.user_properties if name == "figure"]
    for promise, (file, text) in ELSEWHERE.items():
        passed, *others = (sum(report.nodeid.startswith(f"tests/{file}") for report in ended[how]) for how in ended)
        said += [f"{promise} {passed} of {passed + sum(others)} tests: {text}"] if passed + sum(others) else []
    lost = {report.nodeid.partition("[")[0] for how in ("failed", "error") for report in ended[how]}
    if said or lost:
        terminalreporter.section("promises")
    for line in [*sorted(said, key=_number), *(f"NOT KEPT: {name}" for name in sorted(lost))]:
        terminalreporter.write_line(line)


def _reports(reporter: pytest.TerminalReporter, how: str) -> list[pytest.TestReport]:
    return [report for report in reporter.getreports(how) if how != "passed" or report.when == "call"]


def _number(line: str) -> tuple[float, str]:
    """Promises by their number; engines, which have none of their own, last."""
    found = re.match(r"R(\d+)", line)
    return (float(found[1]) if found else float("inf"), line)
