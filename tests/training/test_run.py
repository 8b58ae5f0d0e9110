"""What a run leaves behind, and what it refuses before it writes anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import unmask
from tests import tiny
from unmask.errors import ConfigError, DataError, ModelError, ResourceError
from unmask.training.arguments import Settings
from unmask.training.run import describe, train

Make = Callable[..., Settings]


def test_the_finished_run_is_a_model_brackets_in_its_name_included(settings: Make, tmp_path: Path) -> None:
    output_dir = tmp_path / "mixture[train:10_000,test:10]"
    run = train(settings(output_dir=str(output_dir)), verb="sft")
    assert run.folder == output_dir / "checkpoint-final"
    held = unmask.load(str(output_dir), device="cpu")
    assert held.tokenizer.mask_token_id == held.model.mask_token_id
    again = train(settings(model_name_or_path=str(output_dir), output_dir=str(tmp_path / "next")), verb="sft")
    assert again.history[0]["nll"] < run.history[0]["nll"]


def test_training_learns(settings: Make) -> None:
    run = train(settings(max_steps=25, padding="none", logging_steps=5), verb="sft")
    assert run.history[-1]["nll"] < 0.7 * run.history[0]["nll"]


def test_metrics_are_one_json_object_per_line(settings: Make, tmp_path: Path, conversations: Path) -> None:
    more = {"eval_strategy": "steps", "eval_steps": 1, "dataset_args": f"{conversations}[train:30,test:10]"}
    run = train(settings(**more), verb="sft")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == run.history
    trained = [line for line in lines if "loss" in line]
    assert {"step", "epoch", "loss", "unscaled_loss", "nll", "grad_norm", "learning_rate", "tokens_per_second"} <= set(
        trained[0]
    )
    assert [line["step"] for line in trained] == [1, 2, 3]
    assert trained[-1]["epoch"] == pytest.approx(3 * 8 / 30, abs=1e-6)
    assert [line["step"] for line in lines if "eval_nll" in line] == [1, 2, 3]


def test_evaluation_noise_depends_on_neither_seed_nor_batch_size(
    settings: Make, tmp_path: Path, conversations: Path
) -> None:
    figures = []
    for seed, micro in ((1, 3), (2, 10), (3, 4)):
        more = {"eval_on_start": True, "eval_strategy": "steps", "eval_steps": 99, "seed": seed, "max_steps": 1}
        data = f"{conversations}[train:30,test:10,seed:5]"
        out = str(tmp_path / str(seed))
        run = train(settings(**more, dataset_args=data, per_device_eval_batch_size=micro, output_dir=out), verb="sft")
        figures.append(next(line for line in run.history if "eval_nll" in line))
    for name in ("eval_nll", "eval_loss", "eval_unscaled_loss"):
        assert figures[1][name] == pytest.approx(figures[0][name], rel=1e-5)
        assert figures[2][name] == pytest.approx(figures[0][name], rel=1e-5)


def test_pretraining_starts_from_scratch_where_there_are_no_weights(
    settings: Make, tmp_path: Path, texts: Path, checkpoint: Path
) -> None:
    bare = tiny.write_checkpoint(tmp_path / "bare", weights=False)
    more = {"dataset_args": str(texts), "max_length": 32, "max_steps": 1, "learning_rate": 1e-9}
    one = train(settings(model_name_or_path=str(bare), output_dir=str(tmp_path / "1"), **more), verb="pretrain")
    two = train(
        settings(output_dir=str(tmp_path / "2"), from_scratch=True, model_name_or_path=str(checkpoint), **more),
        verb="pretrain",
    )
    kept = train(settings(output_dir=str(tmp_path / "3"), **more), verb="pretrain")
    first, second, third = (load_file(run.folder / "model.safetensors") for run in (one, two, kept))
    original = load_file(checkpoint / "model.safetensors")
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    assert all(torch.allclose(third[name], original[name], atol=1e-6) for name in original)
    assert any(not torch.allclose(first[name], original[name], atol=1e-2) for name in original)


def test_fine_tuning_without_weights_says_how_to_start(settings: Make, tmp_path: Path) -> None:
    bare = tiny.write_checkpoint(tmp_path / "bare", weights=False)
    with pytest.raises(ModelError, match=r"no weights.*--from_scratch"):
        train(settings(model_name_or_path=str(bare)), verb="sft")
    run = train(settings(model_name_or_path=str(bare), from_scratch=True, output_dir=str(tmp_path / "b")), verb="sft")
    assert run.folder.is_dir()


def test_an_adapter_is_trained_alone_and_used_over_its_base(settings: Make, tmp_path: Path, checkpoint: Path) -> None:
    run = train(settings(lora=True, r=4, max_steps=5), verb="sft")
    assert not (run.folder / "model.safetensors").exists()
    base = unmask.load(str(checkpoint), device="cpu")
    tuned = unmask.load(str(checkpoint), adapter=str(run.folder), device="cpu")
    ids = torch.arange(20).view(2, 10)
    assert not torch.allclose(base.model(ids).logits, tuned.model(ids).logits, atol=1e-3)
    onwards = train(settings(adapter=str(run.folder), output_dir=str(tmp_path / "onwards")), verb="sft")
    assert onwards.history[0]["nll"] < run.history[0]["nll"]


def test_kinds_of_adapters_are_saved_as_asked(settings: Make) -> None:
    run = train(settings(lora=True, r=4, lora_alpha=6, use_dora=True, use_rslora=True, max_steps=1), verb="sft")
    saved = json.loads((run.folder / "adapter_config.json").read_text())
    assert {"r": 4, "lora_alpha": 6, "use_dora": True, "use_rslora": True}.items() <= saved.items()
    assert any("lora_magnitude_vector" in name for name in load_file(run.folder / "adapter_model.safetensors"))


def test_frozen_weights_stay(settings: Make, checkpoint: Path) -> None:
    run = train(settings(freeze="ff_proj,up_proj,wte"), verb="sft")
    before, after = load_file(checkpoint / "model.safetensors"), load_file(run.folder / "model.safetensors")
    for name in before:
        frozen = any(part in name for part in ("ff_proj", "up_proj", "wte"))
        assert before[name].equal(after[name]) == frozen, name


def test_gradient_checkpointing_changes_nothing(settings: Make, tmp_path: Path) -> None:
    plain = train(settings(output_dir=str(tmp_path / "0")), verb="sft")
    for strategy in ("whole_layer", "one_in_two"):
        more = {"gradient_checkpointing": True, "checkpointing_strategy": strategy}
        saved = train(settings(output_dir=str(tmp_path / strategy), **more), verb="sft")
        one, two = load_file(plain.folder / "model.safetensors"), load_file(saved.folder / "model.safetensors")
        assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def test_epochs_and_their_ends(settings: Make, tmp_path: Path) -> None:
    more = {"num_train_epochs": 2, "save_strategy": "epoch", "save_total_limit": 9, "max_steps": -1}
    train(settings(**more), verb="sft")
    assert sorted(p.name for p in (tmp_path / "run").glob("checkpoint-[0-9]*")) == ["checkpoint-10", "checkpoint-5"]


def test_a_dry_run_tells_and_writes_nothing(settings: Make, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    told = describe(settings(lora=True, r=4), verb="sft")
    assert sorted(tmp_path.rglob("*")) == before
    assert told.train_rows == 40
    assert 0 < told.trainable < told.parameters
    assert len(told.first_batch) == 8
    # only the answer, its end token and the learned padding are marked
    row = told.first_batch[0]
    prompt, _, learned = row.partition("⟦")
    assert prompt.endswith("assistant<|end_header_id|>\n\n")
    assert "<|eot_id|>" in learned
    assert json.loads(told.to_json())["parameters"] == told.parameters


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"model_name_or_path": None}, ConfigError, "model_name_or_path is missing"),
        ({"model_name_or_path": "no/such/folder/here"}, ModelError, "no folder"),
        ({"max_length": 5000}, ConfigError, "256 positions"),
        ({"freeze": "nonsense"}, ConfigError, 'no weight has "nonsense"'),
        ({"freeze": "model"}, ConfigError, "nothing to train"),
        ({"lora": True, "target_modules": "q_prj"}, ConfigError, 'Did you mean "q_proj"'),
        ({"streaming": True, "max_steps": -1}, ConfigError, "max_steps"),
        ({"lr_scheduler_type": "nonsense"}, ConfigError, "transformers refuses"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    settings: Make, change: dict, kind: type, words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        train(settings(**change), verb="sft")
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_place_of_the_output_folder(settings: Make, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        train(settings(), verb="sft")
    assert (tmp_path / "run").read_text() == "mine"


def test_an_output_folder_that_cannot_be_made(settings: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((ConfigError, ResourceError), match="output_dir"):
        train(settings(output_dir=str(tmp_path / "file" / "below")), verb="sft")


def test_bad_rows_are_told_with_their_place(settings: Make, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}\n{"a": 1}\n'
    )
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        train(settings(dataset_args=str(bad)), verb="sft")
    assert not (tmp_path / "run").exists()
