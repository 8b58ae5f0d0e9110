"""Which plan a run follows, what cannot be planned, and what is told of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from rich.console import Console

from unmask.data.build import Splits
from unmask.errors import ConfigError
from unmask.training.arguments import Settings
from unmask.training.ordering import plan_of
from unmask.training.run import describe, train

Make = Callable[..., Settings]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"packing": True, "padding": "max_length"}, "nothing is left to pack"),
        ({"packing": True, "train_sampling_strategy": "group_by_length"}, "packing and tokens_per_batch see to that"),
        ({"tokens_per_batch": 500, "train_sampling_strategy": "group_by_length"}, "Leave it out"),
        ({"tokens_per_batch": 95}, r"tokens_per_batch \(95\) must hold a row of max_length \(96\)"),
        ({"tokens_per_batch": 500, "streaming": True}, "which a stream does not know beforehand"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_anything_is_written(
    settings: Make, tmp_path: Path, more: dict[str, Any], told: str
) -> None:
    for act in (train, describe):
        with pytest.raises(ConfigError, match=told):
            act(settings(**more), verb="sft")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "unit"),
    [({"packing": True, "padding": "block", "block_size": 16}, "packed rows"), ({"tokens_per_batch": 300}, "forwards")],
)
def test_how_full_rows_are_is_told(settings: Make, tmp_path: Path, more: dict[str, Any], unit: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    shown = describe(settings(**more), verb="sft")
    (line,) = [note for note in shown.notes if "% filled" in note]
    assert f" {unit} of " in line
    train(settings(**more, max_steps=1, report=True, sample_prompts=("",)), verb="sft", console=console)
    assert line in console.file.getvalue()  # type: ignore[attr-defined]
    assert line in (tmp_path / "run" / "report.html").read_text()


def test_the_first_batch_of_a_dry_run_is_the_first_that_is_trained_on(settings: Make) -> None:
    shown = describe(settings(packing=True, per_device_train_batch_size=2, max_length=256), verb="sft")
    assert len(shown.first_batch) == 2
    assert all(row.count("⟦") > 1 for row in shown.first_batch)
    streamed = describe(
        settings(packing=True, per_device_train_batch_size=2, max_length=256, streaming=True), verb="sft"
    )
    assert all(row.count("⟦") > 1 for row in streamed.first_batch)


def test_a_corpus_is_packed_by_whole_documents(settings: Make, tmp_path: Path, texts: Path) -> None:
    corpus = {"dataset_args": f"{texts}[test:8]", "max_length": 96, "per_device_train_batch_size": 4}
    more = {**corpus, "packing": True, "eval_strategy": "steps", "eval_on_start": True, "num_train_epochs": 1}
    packed = train(settings(**more, max_steps=-1), verb="pretrain")
    apart = train(
        settings(**{**more, "packing": False}, max_steps=1, output_dir=str(tmp_path / "apart")), verb="pretrain"
    )
    # whole documents and rows of pieces are other samples, but about as likely to an untrained model
    assert packed.history[0]["eval_nll"] == pytest.approx(apart.history[0]["eval_nll"], rel=0.1)
    assert packed.history[-1]["epoch"] == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("more", [{}, {"tokens_per_batch": 300}], ids=["rows", "forwards"])
def test_sequential_samples_come_one_after_the_other(settings: Make, more: dict[str, Any]) -> None:
    lengths = np.random.default_rng(0).integers(5, 96, size=2000)
    splits = Splits(Dataset.from_dict({"input_ids": [[1] * int(length) for length in lengths]}), None, [], None)
    plan = plan_of(settings(train_sampling_strategy="sequential", **more), "sft", splits, 1)
    visited = [visit for update in range(400) for group in plan.groups(update) for visit in group]
    assert [visit.row for visit in visited[:300]] == list(range(300))


def test_epochs_are_passes_over_the_samples(settings: Make) -> None:
    done = train(settings(packing=True, per_device_train_batch_size=1, num_train_epochs=2, max_steps=-1), verb="sft")
    assert done.history[-1]["epoch"] == 2.0
    assert done.history[0]["epoch"] < 0.3
