"""Documented commands and files over a tiny model and tiny data, for real: only paths and lengths of runs differ."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from datasets import Dataset

from tests.cli import test_parent_commands as parents
from unmask.cli.main import main


def with_paths(yaml: str, **values: object) -> str:
    """The file with the values of some of its keys replaced."""
    for name, value in values.items():
        yaml, found = re.subn(rf"(?m)^{name}: .*$", f"{name}: {value}", yaml)
        assert found == 1, name
    return yaml


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_dry_run_shows_settings_first_batch_and_size_and_writes_nothing(
    here: Path, checkpoint: Path, conversations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = parents.argv_of(parents.S0)
    argv[argv.index("--model_name_or_path") + 1] = str(checkpoint)
    argv[argv.index("--dataset_args") + 1] = str(conversations)
    assert main(["sft", *argv, "--max_length", "96", "--dry_run"]) == 0
    told = capsys.readouterr().out
    assert '"learning_rate": 0.0002' in told
    assert re.search(r"parameters: [\d,]+, of which trained: [\d,]+\n", told)
    assert re.search(r"assistant<\|end_header_id\|>\s+⟦[a-z ]+<\|eot_id\|>", told)
    assert list(here.iterdir()) == []
    assert main(["sft", *argv, "--max_length", "96", "--dry_run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert 0 < plan["trainable"] < plan["parameters"]
    assert plan["train_rows"] == 40


@pytest.mark.parametrize("save_steps", [1, 2])
def test_dllm_factory_config_trains_evaluates_and_keeps_the_best(
    here: Path, checkpoint: Path, conversations: Path, capsys: pytest.CaptureFixture[str], save_steps: int
) -> None:
    yaml = with_paths(parents.S1_SFT_YAML, model_name=checkpoint, train_data=conversations, max_length=96)
    (here / "sft.yaml").write_text(with_paths(yaml, eval_steps=1, save_steps=save_steps, logging_steps=1))
    assert main(["sft", "--config", "sft.yaml", "--max_steps", "2", "--json"]) == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert result["folder"] == "sft_save/llada-sft/checkpoint-final"
    assert (here / result["folder"] / "model.safetensors").is_file()
    assert result["eval_nll"] > 0
    assert "1 % is held out" in " ".join(told.err.split())


def test_tutorial_files_pretrain_and_fine_tune(
    here: Path, checkpoint: Path, texts: Path, conversations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    Dataset.from_list(rows).save_to_disk("c4")
    small = {"max_length": 64, "num_proc": 1, "max_steps": 1, "gradient_accumulation_steps": 1, "eval_steps": 1}
    paths = {"model_name_or_path": checkpoint, "dataset_args": "c4[train:50,test:10]", "output_dir": "pt[train:50]"}
    (here / "pt.yaml").write_text(with_paths(parents.S3_PT_YAML, **small, **paths))
    assert main(["pretrain", "--configs", "pt.yaml"]) == 0
    assert "saved pt[train:50]/checkpoint-final" in capsys.readouterr().out

    messages = [json.loads(line) for line in conversations.read_text().splitlines()]
    Dataset.from_list(messages).save_to_disk("alpaca")
    paths = {"model_name_or_path": "pt[train:50]", "dataset_args": "alpaca[train:30,test:5]", "output_dir": "sft"}
    yaml = with_paths(parents.S3_SFT_YAML, **{**small, "max_length": 96}, **paths, report_to="none")
    (here / "sft.yaml").write_text(yaml)
    assert main(["sft", "--configs", "sft.yaml"]) == 0
    assert (here / "sft/checkpoint-final/adapter_model.safetensors").is_file()
    metrics = [json.loads(line) for line in (here / "sft/metrics.jsonl").read_text().splitlines()]
    assert any("eval_nll" in line for line in metrics)


def test_text_files_pretrain(here: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "data").mkdir()
    for name in "ab":
        (here / f"data/{name}.txt").write_text("The sun and the moon. " * 40)
    verb, *argv = parents.argv_of(parents.S4["txt"])
    argv[argv.index("--model_name_or_path") + 1] = str(checkpoint)
    assert main([verb, *argv, "--max_seq_length", "32", "--max_steps", "1", "--batch_size", "2"]) == 0
    assert "saved output/checkpoint-final" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "nowhere/at-all/x", "--dataset_args", "{data}"], "nowhere/at-all/x"),
        (["--model", "{model}", "--dataset_args", "absent.jsonl", "--max_length", "96"], "absent.jsonl"),
        (["--model", "{model}", "--dataset_args", "{data}", "--max_length", "100000"], "max_length"),
        (["--model", "{model}", "--dataset_args", "{data}", "--max_length", "8"], "max_length"),
    ],
)
def test_mistakes_found_later_are_told_the_same_way(
    here: Path, checkpoint: Path, conversations: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    filled = [word.format(model=checkpoint, data=conversations) for word in argv]
    for extra in ([], ["--dry_run"]):
        assert main(["sft", *filled, "--output_dir", "out", *extra]) == 2
        told = capsys.readouterr()
        assert message in told.err and "Traceback" not in told.err
    assert not (here / "out").exists()
