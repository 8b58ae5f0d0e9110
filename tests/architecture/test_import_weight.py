"""What `import unmask` and `unmask --help` load: neither torch nor transformers, so that both answer at once.

How long they take is measured by benchmarks/startup.py; here no time is asserted.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "datasets", "peft", "accelerate")


def loaded_by(statement: str) -> set[str]:
    """Heavy packages in `sys.modules` after `statement` ran in a new interpreter."""
    probe = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\nprint('\\nloaded:', *sys.modules)"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(HEAVY) & set(result.stdout.rpartition("loaded:")[2].split())


def test_import_loads_no_heavy_package() -> None:
    assert not loaded_by("import unmask")


def test_help_loads_no_heavy_package() -> None:
    if importlib.util.find_spec("unmask.cli.main") is None:
        pytest.skip("the command line is not written yet")
    assert not loaded_by("from unmask.cli.main import main; main(['--help'])")


def test_the_check_sees_a_heavy_package() -> None:
    assert loaded_by("import unmask, torch") == {"torch"}
