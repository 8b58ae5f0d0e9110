"""Cards: beside every model that is saved, whole, readable by the Hub's own reader, and free of secrets."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import unmask
from unmask.models.card import Card, is_hub_id, table
from unmask.training.arguments import Settings
from unmask.training.run import train

Make = Callable[..., Settings]


def test_every_save_of_a_run_has_one(settings: Make, tmp_path: Path, conversations: Path) -> None:
    more = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 4}
    run = train(settings(**more, dataset_args=f"{conversations}[train:30,test:10]"), verb="sft")
    for folder, step in ((tmp_path / "run/checkpoint-2", 2), (tmp_path / "run/checkpoint-4", 4), (run.folder, 4)):
        text = (folder / "README.md").read_text("utf-8")
        assert f"| updates | {step} |" in text
        assert ("update 2 of 4" in text) == (step == 2)
        evaluated = next(line["eval_nll"] for line in run.history if "eval_nll" in line and line["step"] == step)
        assert f"{evaluated:.4f} at update {step}" in text
        for said in (
            "## Sampler settings",
            "## Data",
            "## The same run again",
            '"noise_schedule": "linear"',
            "seed | 3",
        ):
            assert said in text
        assert ModelCard.load(folder / "README.md").data.to_dict()["library_name"] == "unmask"


def test_an_adapter_names_its_base(settings: Make, checkpoint: Path) -> None:
    run = train(settings(lora=True, r=4), verb="sft")
    card = ModelCard.load(run.folder / "README.md")
    assert card.data.library_name == "peft"
    assert f"`{checkpoint}`" in card.text and "holds an adapter" in card.text
    assert "LoRA, r 4, alpha 64, on all-linear" in card.text


def test_a_model_saved_by_hand_has_one(checkpoint: Path, tmp_path: Path) -> None:
    lm = unmask.load(str(checkpoint), device="cpu")
    lm.save(tmp_path / "my model: [v1]")
    card = ModelCard.load(tmp_path / "my model: [v1]" / "README.md")
    assert "# my model: [v1]" in card.text and f"`{checkpoint}`" in card.text
    assert "masked-diffusion" in card.data.tags


def test_no_secret_of_the_environment_is_in_a_run(settings: Make, tmp_path: Path, monkeypatch) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "SWANLAB_API_KEY"):
        monkeypatch.setenv(name, "canary-7f3a")
    train(settings(report=True, sample_new_tokens=2), verb="sft")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"canary-7f3a" in path.read_bytes()]


@pytest.mark.parametrize("name", ["a: b", "x [y]", "'quoted'", "#hash", "日本"])
def test_the_front_matter_holds_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(Card(name, "s", "llada", datasets=(name,)).markdown(), "utf-8")
    assert ModelCard.load(tmp_path / "README.md").data.datasets == [name]


def test_hub_ids_and_folders_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("owner/name")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert not any(map(is_hub_id, ("owner/name", "./name", "/a/b", "name", "a/b/c")))


def test_a_table_keeps_its_cells() -> None:
    (*_, row) = table([("a|b", "line\nbreak")]).splitlines()
    assert re.split(r"(?<!\\)\|", row) == ["", " a\\|b ", " line break ", ""]
