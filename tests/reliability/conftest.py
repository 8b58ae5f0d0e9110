"""The promises of a run that cannot be lost, each with a figure: small in `make test`, whole in `make reliability`.

`UNMASK_RELIABILITY=whole` makes them whole. A test that proves a promise says its figure through `figure`; all of them
are printed at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

IS_WHOLE = os.environ.get("UNMASK_RELIABILITY") == "whole"


@pytest.fixture(scope="session")
def count() -> Callable[[int, int], int]:
    """The first number in `make test`, the second in `make reliability`."""
    return lambda short, whole: whole if IS_WHOLE else short


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say what a test has shown."""
    return lambda text: record_property("figure", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    said = [text for report in reports for name, text in report.user_properties if name == "figure"]
    if said and IS_WHOLE:
        terminalreporter.section("promises")
        for text in sorted(map(str, said)):
            terminalreporter.write_line(text)
