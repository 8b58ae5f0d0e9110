"""Tests that import what the sandbox has not are refused before a model is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from unmask.errors import ResourceError
from unmask.evaluation.harness_code import check_tests

pytestmark = pytest.mark.usefixtures("confined")


def task(*tests: str, unsafe: bool = True) -> Any:
    """What is read of one of the harness' tasks."""
    return SimpleNamespace(config=SimpleNamespace(unsafe_code=unsafe), eval_docs=tests, doc_to_target=lambda doc: doc)


def test_what_no_sandbox_has_is_refused() -> None:
    with pytest.raises(ResourceError, match="the tests of task odd import torch, which the sandbox does not have"):
        check_tests({"odd": task("assert f() == 1", "def check(f):\n    from torch.nn import Linear")})


def test_what_it_has_is_not() -> None:
    speaks = "'''\nfrom nowhere to\nimport thence\n'''"
    check_tests(
        {
            "usual": task(
                "import math, re\nimport numpy as np", "from collections import deque", speaks, "no program ("
            ),
            "no code": task("import torch", unsafe=False),
        }
    )
