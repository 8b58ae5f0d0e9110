"""The recipe of a run beside a model's results: told by every folder of the run, and nowhere a place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unmask
from unmask.evaluation import report
from unmask.evaluation.trained_by import trained_by
from unmask.training.arguments import Settings
from unmask.training.run import train


@pytest.fixture
def run(settings: Callable[..., Settings], tmp_path: Path) -> Path:
    train(settings(max_steps=2, max_length=96, lora=True, save_strategy="steps", save_steps=1), verb="sft")
    return tmp_path / "run"


def test_a_run_says_how_it_was_trained(run: Path, checkpoint: Path, conversations: Path, tmp_path: Path) -> None:
    found = trained_by(str(run))
    assert found is not None
    told, whole = found["recipe"], json.loads((run / "recipe.json").read_text())
    assert (told["verb"], told["learning_rate"], told["lora"], told["max_length"]) == ("sft", 1e-2, True, 96)
    assert told["model_name_or_path"] == checkpoint.name and told["dataset_args"] == conversations.name
    assert "r" not in told and "padding" not in told  # as they ever are
    assert found["finished"] == {"max_steps": 2} and found["material"] == whole["material"]
    assert not any(str(place) in json.dumps(found) for place in (tmp_path, checkpoint.parent, conversations.parent))
    assert trained_by(str(run / "checkpoint-final")) == found == trained_by(str(checkpoint), str(run))
    assert trained_by(str(run / "checkpoint-1")) == {key: value for key, value in found.items() if key != "finished"}
    # a whole run elsewhere, of files elsewhere, is the same one
    shutil.copytree(run, tmp_path / "moved")
    whole["recipe"]["dataset_args"] = f"/another/place/{conversations.name}"
    (tmp_path / "moved/recipe.json").write_text(json.dumps(whole))
    assert trained_by(str(tmp_path / "moved")) == found
    whole["recipe"]["learning_rate"] = 1e-3
    (tmp_path / "moved/recipe.json").write_text(json.dumps(whole))
    assert (trained_by(str(tmp_path / "moved")) or {})["digest"] != found["digest"]
    # and it stands in the results
    lm = unmask.load(run, device="cpu")
    result = report.Result("a task", 1, "data", {}, report.model_facts(lm, str(run)), {}, 0, 0.0)
    assert report.document(result)["recipe"] == found


def test_what_was_not_trained_here_has_no_recipe(checkpoint: Path, tmp_path: Path) -> None:
    assert trained_by(str(checkpoint)) is trained_by("example:base") is trained_by("owner/name") is None
    for content in ("{", "[]", '{"recipe": 3}'):
        (tmp_path / "recipe.json").write_text(content)
        assert trained_by(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/a/b/rows.jsonl[train:10]+~/c/other.csv[seed:2]", "rows.jsonl[train:10]+other.csv[seed:2]"),
        ("owner/name+rows/mine.jsonl", "owner/name+rows/mine.jsonl"),
        ("/a/b/folder/", "folder/"),
        (["/a/model", 3, None], ["model", 3, None]),
    ],
)
def test_places_are_names(given: Any, kept: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": {"dataset_args": given}}))
    assert (trained_by(str(tmp_path)) or {})["recipe"] == {"dataset_args": kept}
