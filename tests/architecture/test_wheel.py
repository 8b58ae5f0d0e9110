"""The wheel holds every module and data file, and works where this folder was never seen. No network is used."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

# The fixtures build and install once: keep their tests in one process.
pytestmark = pytest.mark.xdist_group("wheel")

BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"

# Import names of the optional extras: a module about one of them may need it at its top.
OPTIONAL = {
    "lm_eval",
    "bitsandbytes",
    "tensorboard",
    "wandb",
    "swanlab",
    "deepspeed",
    "fastapi",
    "uvicorn",
}

IMPORT_ALL = f"""
import pkgutil, sys, importlib, unmask
for module in pkgutil.walk_packages(unmask.__path__, "unmask."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in {OPTIONAL!r}:
            raise
    print(module.name)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command with nothing of this project on its path; what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built by the project's own back-end, without an isolated environment."""
    folder = tmp_path_factory.mktemp("wheel")
    return folder / run(sys.executable, "-c", BUILD, folder, cwd=root).split()[-1]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an empty environment with the wheel in it and nothing else, not even its dependencies."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    run(*pip, "install", "-q", "--no-deps", "--no-index", "--no-compile", wheel, cwd=wheel.parent)
    return python


def lend_dependencies(python: Path) -> None:
    """Let the environment see this one's packages. Folders added this way come last and bring no editable installs."""
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=python.parent).strip()
    Path(site, "lent.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))


def test_wheel_holds_every_file(root: Path, wheel: Path) -> None:
    package = root / "src"
    ours = {
        path.relative_to(package).as_posix()
        for path in (package / "unmask").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    ours |= {f"unmask/{path.relative_to(root).as_posix()}" for path in (root / "recipes").rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        licence = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert packed == ours
    assert licence


def test_every_package_folder_is_a_package(root: Path) -> None:
    folders = {path.parent for path in (root / "src" / "unmask").rglob("*.py")}
    # a program of its own, which an interpreter without any package runs
    folders.discard(root / "src" / "unmask" / "evaluation" / "confined")
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_no_version_is_pinned(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    assert not [line for line in (*project["dependencies"], *extras) if "==" in line.split(";")[0]]


def test_installed_wheel_works(installed: Path, tmp_path: Path) -> None:
    program = "import unmask; print(unmask.__version__, unmask.UnmaskError.__name__, unmask.__file__)"
    version, error, file = run(installed, "-c", program, cwd=tmp_path).split()
    assert (version.count("."), error) == (2, "UnmaskError")
    assert installed.parents[1] in Path(file).parents

    lend_dependencies(installed)
    file = run(installed, "-c", "import unmask; print(unmask.__file__)", cwd=tmp_path).strip()
    assert installed.parents[1] in Path(file).parents
    imported = run(installed, "-c", IMPORT_ALL, cwd=tmp_path).split()
    assert {"unmask.errors", "unmask.diffusion", "unmask.training"} <= set(imported)


def test_installed_command_prints_help(installed: Path, root: Path, tmp_path: Path) -> None:
    if not (root / "src" / "unmask" / "cli" / "main.py").exists():
        pytest.skip("the command line is not written yet")
    lend_dependencies(installed)
    assert "demo" in run(installed.parent / "unmask", "--help", cwd=tmp_path)
    assert "demo" in run(installed, "-m", "unmask", "--help", cwd=tmp_path)
