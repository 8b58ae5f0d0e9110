"""What all tests share: the goldens' folder, one thread, and shapes checked at run time in the mathematical rooms."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# Before anything under test is imported. The numeric tower lets an int stand for a float, as type checkers do.
check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook(
    ["unmask.diffusion", "unmask.objectives", "unmask.generation"], typechecker=f"{__name__}.check_types"
)
torch.set_num_threads(1)
# Runs keep their tokens in the user's cache; those of the tests are nobody's.
os.environ["UNMASK_CACHE"] = tempfile.mkdtemp(prefix="unmask-tests-")
atexit.register(shutil.rmtree, os.environ["UNMASK_CACHE"], ignore_errors=True)


def pytest_collection_finish() -> None:
    # Every run collects garbage at its end: let it not walk over all that the libraries made when they were imported.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with `golden/` and `data/`."""
    folder = Path(os.environ.get("UNMASK_SHARED") or Path(__file__).resolve().parents[1].parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set UNMASK_SHARED to the folder with golden/ and data/")
    return folder


pytest_plugins = ["tests.runs"]
