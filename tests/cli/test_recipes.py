"""Every recipe is accepted as it stands, without a note, and its run is rehearsed on stand-ins for model and data."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from tests import tiny
from tests.models.tiny import on_meta
from unmask.cli.main import main
from unmask.cli.recipes import headline, recipe_or_file, recipes
from unmask.errors import ConfigError
from unmask.registry import FAMILIES
from unmask.training import run
from unmask.training.arguments import Settings
from unmask.training.trained import freeze

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes"
# the base model's own, and those of studies, are tried where these are tested
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if path.stem.split("_")[0] in ("pretrain", "sft"))
MODELS = {"llada-100m": 124_327_616, "qwen2.5-100m": 147_158_592}
LENGTH = 4096

CONVERSATIONS = [{"messages": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "b a"}]}] * 40
S1K = [{"question": "1+1?", "thinking_trajectories": ["one and one"], "attempt": "2"}] * 40
ALPACA = [{"instruction": "加", "input": "一和一", "output": "二"}] * 40
ROWS: dict[str, list[dict[str, Any]]] = {
    "sft_alpaca_zh": ALPACA,
    "sft_mistral_llada": [{"user": "a b", "assistant": "b a"}] * 40,
    "sft_qwen_alpaca_zh": ALPACA,
    "sft_s1k": S1K,
}


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 10
    assert {path.stem for path in RECIPES} <= recipes().keys()


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe(file: Path, settings_of: Callable[..., Settings], capsys: pytest.CaptureFixture[str]) -> None:
    verb, text = file.stem.split("_")[0], file.read_text()
    settings = settings_of(verb, "--config", str(file))
    assert capsys.readouterr().err == ""
    assert settings.trainer["eval_strategy"] == "steps"
    comment = text[: text.index("\nmodel_name_or_path")]
    assert f"unmask {verb} --config recipes/{file.name}" in comment
    assert "Expected hardware: " in comment and re.search(r"^# (From|Our own)", comment, re.MULTILINE)


def model_for(name: str, objective: str, folder: Path) -> Path:
    """A folder of the recipe's kind, with its own configuration where it ships one, and a tokenizer of bytes."""
    if name.startswith("recipes/"):
        shutil.copytree(ROOT / name, folder)
        config = json.loads((folder / "config.json").read_text())
        ids = {"mask_token_id": 0, "eos_token_id": 1, "bos_token_id": 3, "pad_token_id": 1}
        config |= {key: value for key, value in ids.items() if key in config}
        (folder / "config.json").write_text(json.dumps(config))
        tiny.write_tokenizer(folder)
        return folder
    if objective == "masked":
        return tiny.write_checkpoint(folder, weights=False, max_sequence_length=LENGTH)
    folder.mkdir()
    tiny.write_tokenizer(folder)
    size = {"vocab_size": 264, "max_position_embeddings": LENGTH}
    (folder / "config.json").write_text(json.dumps({**FAMILIES.get("qwen2").tiny_config, **size}))
    return folder


def data_for(file: Path, settings: Settings, folder: Path) -> str:
    """Forty rows in the recipe's format, under its own keys but for counts that they do not reach."""
    if "*.txt" in str(settings.data.dataset_args):
        for number in range(4):
            (folder / f"{number}.txt").write_text("some words of text " * 400)
        return f"{folder}/*.txt[test:1]"
    if file.stem.startswith("pretrain"):
        Dataset.from_dict({"text": ["some words of text " * 400] * 40}).save_to_disk(folder / "rows")
        return f"{folder}/rows[test:2]"
    (folder / "rows.json").write_text(json.dumps(ROWS.get(file.stem, CONVERSATIONS)))
    return f"{folder}/rows.json[test:2]"


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_rehearsal(file: Path, settings_of: Callable[..., Settings], tmp_path: Path) -> None:
    verb = file.stem.split("_")[0]
    asked = settings_of(verb, "--config", str(file))
    model = model_for(str(asked.model.model_name_or_path), asked.objective.objective, tmp_path / "model")
    settings = replace(
        asked,
        model=replace(asked.model, model_name_or_path=str(model)),
        data=replace(asked.data, dataset_args=data_for(file, asked, tmp_path), num_proc=1),
    )
    plan = run.describe(settings, verb=verb)
    assert plan.train_rows and plan.eval_rows and any("⟦" in row for row in plan.first_batch)
    shipped = MODELS.get(Path(str(asked.model.model_name_or_path)).name)
    assert shipped is None or plan.parameters == shipped


def test_models_that_ship_hold_configurations_only() -> None:
    """Tokenizers belong to those who made them; the recipe says how to get them."""
    assert {path.name for path in (FOLDER / "models").iterdir()} == MODELS.keys()
    for folder in (FOLDER / "models").iterdir():
        assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_mistrals_mlps_and_head_stay_and_all_else_is_trained(settings_of: Callable[..., Settings]) -> None:
    for file in RECIPES:
        if "mistral" not in file.stem:
            continue
        model = on_meta(dict(FAMILIES.get("llada").tiny_config))
        freeze(model, settings_of(file.stem.split("_")[0], "--config", str(file)).model.freeze)
        held = {name.split(".")[-2] for name, weight in model.named_parameters() if not weight.requires_grad}
        assert held == {"gate_proj", "up_proj", "down_proj", "head"}


def test_a_recipe_has_a_name(settings_of: Callable[..., Settings]) -> None:
    by_name = settings_of("sft", "--config", "recipe:sft_tables", "--max_length", "512")
    by_file = settings_of("sft", "--config", str(FOLDER / "sft_tables.yaml"), "--max_length", "512")
    assert by_name == by_file


def test_a_recipe_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match='no recipe "sft_table". Did you mean "sft_tables"'):
        recipe_or_file("recipe:sft_table")


def test_recipes_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "recipes", "--json"]) == 0
    shown = {row["name"]: row for row in json.loads(capsys.readouterr().out)["recipes"]}
    assert shown["sft_s1k"]["file"] == str(FOLDER / "sft_s1k.yaml")
    assert shown["sft_tables"]["what"].startswith("Teach LLaDA-8B-Instruct to answer questions about tables")
    assert headline(FOLDER / "sft_tulu3.yaml") == "Fine-tune all weights of LLaDA-8B-Base on conversations"
