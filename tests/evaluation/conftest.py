from __future__ import annotations

import pytest

from unmask.errors import ResourceError
from unmask.evaluation import sandbox


@pytest.fixture(scope="session")
def confined() -> None:
    """Skip where this machine cannot confine a program."""
    try:
        sandbox.protections()
    except ResourceError as error:
        pytest.skip(str(error))
