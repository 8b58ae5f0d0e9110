"""The recipes that come with the package, and their names: `--config recipe:sft_tables`.

In a checkout they lie in `recipes/`; a wheel carries them as data. Knows nothing of what is in them.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from unmask.errors import ConfigError, did_you_mean

RECIPE = "recipe:"


def recipes() -> dict[str, Path]:
    """name -> file, sorted; files in folders are named with their folder (`base/pretrain`)."""
    package = Path(str(files("unmask")))
    shipped, checkout = package / "recipes", package.parents[1] / "recipes"
    folder = shipped if shipped.is_dir() else checkout
    found = sorted(folder.rglob("*.yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}


def recipe_or_file(name: str) -> str:
    """The file that `recipe:NAME` means; any other name is a file already.

    Raises:
        ConfigError: no recipe of that name.
    """
    if not name.startswith(RECIPE):
        return name
    known, short = recipes(), name.removeprefix(RECIPE).removesuffix(".yaml")
    if short not in known:
        raise ConfigError(
            f'no recipe "{short}".{did_you_mean(short, known)} See unmask show recipes, or give the path of a file.'
        )
    return str(known[short])


def headline(file: Path) -> str:
    """What a recipe does: the first sentence of the comment on its top."""
    comment = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment).split(". ")[0].removesuffix(".")
