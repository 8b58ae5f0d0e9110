"""Every recipe is accepted as it stands, without a note."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.training.arguments import Settings

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 4


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe(file: Path, settings_of: Callable[..., Settings], capsys: pytest.CaptureFixture[str]) -> None:
    verb = file.stem.split("_")[0]
    settings = settings_of(verb, "--config", str(file))
    assert capsys.readouterr().err == ""
    assert settings.trainer["eval_strategy"] == "steps"
    assert f"unmask {verb} --config recipes/{file.name}" in file.read_text()
