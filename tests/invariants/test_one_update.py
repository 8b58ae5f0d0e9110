"""What an update learns does not depend on how its samples are shared out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from unmask.training.arguments import Settings
from unmask.training.run import train


def weights(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


def largest_difference(first: Path, second: Path) -> float:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def moved(checkpoint: Path, trained: Path) -> float:
    return largest_difference(checkpoint, trained)


# plain gradient descent: adaptive optimizers turn a gradient of rounding errors into a full step
DESCENT = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 1e9}


PAIRS = [("eos", "sequence"), ("none", "token"), ("block", "batch")]
REST = [(p, n) for p in ("eos", "none", "block") for n in ("token", "sequence", "batch") if (p, n) not in PAIRS]


@pytest.mark.parametrize(
    ("padding", "normalization"), [*PAIRS, *(pytest.param(*r, marks=pytest.mark.long) for r in REST)]
)
def test_accumulation_changes_nothing(
    settings: Callable[..., Settings], tmp_path: Path, checkpoint: Path, padding: str, normalization: str
) -> None:
    common = {"padding": padding, "loss_normalization": normalization, "max_steps": 2, **DESCENT}
    if normalization == "batch":
        common["learning_rate"] = 0.001
    whole = train(settings(output_dir=str(tmp_path / "1x8"), per_device_train_batch_size=8, **common), verb="sft")
    assert moved(checkpoint, whole.folder) > 1e-3
    for micro, accumulation in ((4, 2), (1, 8)):
        shared_out = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation}
        other = train(settings(output_dir=str(tmp_path / f"{micro}"), **shared_out, **common), verb="sft")
        assert largest_difference(whole.folder, other.folder) < 2e-6
        for ours, theirs in zip(whole.history, other.history, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
            assert ours["nll"] == pytest.approx(theirs["nll"], rel=1e-5)


PACKED = {
    "eos": {"padding": "eos", "packed_eos": 9, "loss_normalization": "sequence"},
    "none": {"padding": "none", "loss_normalization": "token"},
    "block": {"padding": "block", "block_size": 16, "loss_normalization": "batch", "learning_rate": 0.001},
}


@pytest.mark.parametrize("padding", PACKED)
def test_packed_rows_equal_padded_ones(
    settings: Callable[..., Settings],
    tmp_path: Path,
    checkpoint: Path,
    conversations: Path,
    rows_apart: Callable[[], None],
    padding: str,
) -> None:
    tested = {"dataset_args": f"{conversations}[test:9]", "eval_strategy": "steps", "eval_steps": 1}
    common = {**DESCENT, **PACKED[padding], "max_steps": 2, "packing": True, **tested}
    packed = train(settings(output_dir=str(tmp_path / "packed"), per_device_train_batch_size=3, **common), verb="sft")
    rows_apart()
    padded = train(settings(output_dir=str(tmp_path / "padded"), per_device_train_batch_size=3, **common), verb="sft")
    assert moved(checkpoint, packed.folder) > 1e-3
    assert largest_difference(padded.folder, packed.folder) < 2e-6
    for name in ("loss", "nll", "eval_nll", "eval_loss"):
        ours, theirs = ([line[name] for line in run.history if name in line] for run in (packed, padded))
        assert ours == pytest.approx(theirs, rel=1e-5), name


def test_evaluation_is_the_same_packed_and_not(
    settings: Callable[..., Settings], tmp_path: Path, conversations: Path
) -> None:
    tested = {"dataset_args": f"{conversations}[test:15]", "eval_strategy": "steps", "eval_on_start": True}
    told = [
        train(settings(output_dir=str(tmp_path / f"{packing}"), packing=packing, max_steps=1, **tested), verb="sft")
        for packing in (False, True)
    ]
    first, second = (run.history[0] for run in told)
    for name in ("eval_nll", "eval_loss", "eval_nll_stderr", "eval_unscaled_loss"):
        assert first[name] == pytest.approx(second[name], rel=1e-5), name


@pytest.mark.parametrize("how", [{"packing": True}, {"tokens_per_batch": 200}], ids=["packed", "by-tokens"])
def test_grouped_rows_are_shared_out_without_a_trace(
    settings: Callable[..., Settings], tmp_path: Path, checkpoint: Path, how: dict
) -> None:
    common = {**how, "max_steps": 2, **DESCENT}
    sizes = [(1, 4)] if "tokens_per_batch" in how else [(4, 1), (2, 2), (1, 4)]
    runs = [
        train(
            settings(
                output_dir=str(tmp_path / f"{micro}-{workers}"),
                per_device_train_batch_size=micro,
                gradient_accumulation_steps=accumulation,
                dataloader_num_workers=workers,
                **common,
            ),
            verb="sft",
        ).folder
        for (micro, accumulation), workers in [*((size, 0) for size in sizes), (sizes[-1], 2)]
    ]
    assert moved(checkpoint, runs[0]) > 1e-3
    assert max(largest_difference(runs[0], other) for other in runs[1:]) < 2e-6


@pytest.mark.parametrize("sampling", ["random", "group_by_length"])
def test_workers_change_nothing(settings: Callable[..., Settings], tmp_path: Path, sampling: str) -> None:
    common = {"train_sampling_strategy": sampling, "random_length_ratio": 0.3, "gradient_accumulation_steps": 2}
    without = train(settings(output_dir=str(tmp_path / "0"), **common), verb="sft")
    with_two = train(settings(output_dir=str(tmp_path / "2"), dataloader_num_workers=2, **common), verb="sft")
    assert largest_difference(without.folder, with_two.folder) == 0.0


def test_two_processes_equal_one(
    settings: Callable[..., Settings], tmp_path: Path, checkpoint: Path, conversations: Path
) -> None:
    data = f"{conversations}[train:33,test:7]"
    evaluated = {"dataset_args": data, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 7}
    alone = train(settings(output_dir=str(tmp_path / "alone"), max_steps=2, **evaluated, **DESCENT), verb="sft")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611"]
    command += ["-m", "unmask", "sft", "--model_name_or_path", str(checkpoint), "--dataset_args", data]
    command += ["--max_length", "96", "--output_dir", str(tmp_path / "pair"), "--max_steps", "2", "--seed", "3"]
    command += ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2", "--optim", "sgd"]
    command += ["--learning_rate", "0.1", "--max_grad_norm", "1e9", "--lr_scheduler_type", "constant"]
    command += ["--eval_strategy", "steps", "--eval_steps", "2", "--per_device_eval_batch_size", "2"]
    command += ["--warmup_steps", "0", "--save_strategy", "no", "--logging_steps", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert largest_difference(alone.folder, tmp_path / "pair" / "checkpoint-final") < 2e-6
    told = [json.loads(line) for line in (tmp_path / "pair" / "metrics.jsonl").read_text().splitlines()]
    figures = {"step", "epoch", "loss", "nll", "unscaled_loss", "eval_nll", "eval_loss", "eval_nll_stderr"}
    for ours, theirs in zip(alone.history, told, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() & figures:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
