"""Block diffusion from settings to a model that writes block after block, however its updates are shared out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

import unmask
from unmask.errors import ConfigError
from unmask.training.arguments import Settings, block_sizes
from unmask.training.run import RunResult, describe, train

# plain gradient descent: adaptive optimizers turn a gradient of rounding errors into a full step
DESCENT = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 1e9, "max_steps": 2}
BLOCKS = {"objective": "block", "block_size": 4, "padding": "none"}


def run(settings: Settings, verb: str = "sft") -> RunResult:
    return train(settings, verb=verb, console=Console(quiet=True))


def largest_difference(first: Path, second: Path) -> float:
    one, two = (load_file(folder / "model.safetensors") for folder in (first, second))
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def test_a_run_learns_says_how_sure_it_is_and_writes_by_blocks(
    settings: Callable[..., Settings], texts: Path, tmp_path: Path
) -> None:
    chosen = settings(
        dataset_args=f"{texts}[test:10]",
        max_length=32,
        max_steps=30,
        eval_strategy="steps",
        eval_steps=15,
        eval_nll_samples=3,
        objective="block",
        block_size=4,
        block_curriculum="1:5,2:5",
        complementary_masks=True,
        time_low=0.1,
    )
    done = run(chosen, "pretrain")
    assert done.metrics["eval_nll"] < 0.6 * math.log(264)
    assert 0 < done.metrics["eval_nll_stderr"] < 0.1 * done.metrics["eval_nll"]
    lm = unmask.load(tmp_path / "run", device="cpu")
    (written,) = lm.generate(["sun moon"], max_new_tokens=8, attention="block_causal", block_size=4)
    assert written.stats.emitted > 0
    told = json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]
    assert told["objective"] == "block" and told["block_curriculum"] == "1:5,2:5" and "eval_nll_samples" not in told


@pytest.mark.parametrize("more", [{}, {"packing": True}, {"complementary_masks": True, "padding": "block"}])
def test_how_an_update_is_shared_out_changes_nothing(
    settings: Callable[..., Settings], tmp_path: Path, more: dict
) -> None:
    common = {**BLOCKS, **DESCENT, "block_curriculum": "2:1", **more}
    whole = run(settings(output_dir=str(tmp_path / "1x8"), per_device_train_batch_size=8, **common))
    apart = settings(
        output_dir=str(tmp_path / "4x2"), per_device_train_batch_size=2, gradient_accumulation_steps=4, **common
    )
    assert largest_difference(whole.folder, run(apart).folder) < 2e-6


def test_packed_rows_equal_padded_ones(settings: Callable[..., Settings], tmp_path: Path) -> None:
    padded, packed = (
        run(settings(output_dir=str(tmp_path / str(packing)), packing=packing, **BLOCKS, **DESCENT))
        for packing in (False, True)
    )
    assert largest_difference(padded.folder, packed.folder) < 2e-6


def test_a_stopped_run_goes_on_exactly(settings: Callable[..., Settings], tmp_path: Path) -> None:
    steady = {**BLOCKS, "block_curriculum": "1:2", "save_strategy": "steps", "save_steps": 2}
    whole = run(settings(output_dir=str(tmp_path / "whole"), max_steps=4, **steady))
    run(settings(output_dir=str(tmp_path / "parts"), max_steps=2, **steady))
    resumed = run(settings(output_dir=str(tmp_path / "parts"), max_steps=4, **steady))
    assert largest_difference(whole.folder, resumed.folder) == 0.0


def test_evaluation_does_not_depend_on_the_noise_of_training_or_the_batch(
    settings: Callable[..., Settings], conversations: Path, tmp_path: Path
) -> None:
    common = {"dataset_args": f"{conversations}[train:30,test:7]", "learning_rate": 1e-30, "max_steps": 1}
    common |= {**BLOCKS, "eval_strategy": "steps", "eval_steps": 1, "eval_nll_samples": 2}
    clipped = {"time_low": 0.3, "time_high": 0.8, "masking": "bernoulli", "block_curriculum": "1:9", "seed": 9}
    one, other = (
        run(settings(output_dir=str(tmp_path / str(size)), per_device_eval_batch_size=size, **common, **more)).metrics
        for size, more in ((2, {}), (5, clipped))
    )
    for name in ("eval_nll", "eval_nll_stderr"):
        assert one[name] == pytest.approx(other[name], rel=1e-5)


def test_a_dry_run_counts_both_streams(settings: Callable[..., Settings]) -> None:
    block, masked = (describe(settings(objective=name, block_size=4), verb="sft") for name in ("block", "masked"))
    assert block.first_batch == masked.first_batch
    assert 1.5 < block.memory["activations"] / masked.memory["activations"] < 2.5


def test_what_cannot_be_is_said(settings: Callable[..., Settings]) -> None:
    assert block_sizes("1:500, 4:1_000") == ((1, 500), (4, 1000)) and block_sizes(None) == ()
    for text in ("4", "4:", "0:5", "4:5,", "a:b"):
        with pytest.raises(ConfigError, match="is not SIZE:UPDATES. Example: 1:500"):
            block_sizes(text)
