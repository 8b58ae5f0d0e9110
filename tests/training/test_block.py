"""Block diffusion from settings to a model that writes block after block, however its updates are shared out."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

import unmask
from tests import tiny
from unmask.convert.merge import merge_adapter
from unmask.errors import ConfigError, ModelError
from unmask.models.facts import read_facts
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
    (written,) = lm.generate(["sun moon"], max_new_tokens=8)
    (told,) = lm.generate(["sun moon"], max_new_tokens=8, attention="block_causal", block_size=4)
    assert written.token_ids == told.token_ids and written.stats == told.stats
    assert "| block_size | 4, as it was trained |" in (done.folder / "README.md").read_text()
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


def test_packed_rows_equal_padded_ones(
    settings: Callable[..., Settings], tmp_path: Path, rows_apart: Callable[[], None]
) -> None:
    common = {**BLOCKS, **DESCENT, "packing": True, "block_curriculum": "2:1"}
    packed = run(settings(output_dir=str(tmp_path / "packed"), **common))
    rows_apart()
    padded = run(settings(output_dir=str(tmp_path / "padded"), **common))
    assert largest_difference(padded.folder, packed.folder) < 2e-6


def test_a_stopped_run_goes_on_exactly(settings: Callable[..., Settings], tmp_path: Path) -> None:
    steady = {**BLOCKS, "block_curriculum": "1:2", "save_strategy": "steps", "save_steps": 2}
    whole = run(settings(output_dir=str(tmp_path / "whole"), max_steps=4, **steady))
    run(settings(output_dir=str(tmp_path / "parts"), max_steps=2, **steady))
    resumed = run(settings(output_dir=str(tmp_path / "parts"), max_steps=4, **steady))
    assert largest_difference(whole.folder, resumed.folder) == 0.0
    for folder in (resumed.folder, tmp_path / "parts" / "checkpoint-2", tmp_path / "parts" / "checkpoint-4"):
        assert said(folder) == ("block_causal", 4)


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
    assert 1.4 < block.memory["activations"] / masked.memory["activations"] < 2.5


def test_what_cannot_be_is_said(settings: Callable[..., Settings]) -> None:
    assert block_sizes("1:500, 4:1_000") == ((1, 500), (4, 1000)) and block_sizes(None) == ()
    for text in ("4", "4:", "0:5", "4:5,", "a:b"):
        with pytest.raises(ConfigError, match="is not SIZE:UPDATES. Example: 1:500"):
            block_sizes(text)


@pytest.fixture(scope="module")
def of_blocks(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.write_checkpoint(tmp_path_factory.mktemp("blocks"), attention="block_causal", block_size=8))


def said(folder: Path) -> tuple[str, int | None]:
    facts = read_facts(folder)
    return facts.attention, facts.block_size


OPEN = ("objective", "block_size")


@pytest.mark.parametrize(
    ("left_open", "objective", "learned", "left"),
    [
        (OPEN, "masked", ("block", 8), ("block_causal", 8)),
        (("objective",), "masked", ("block", 4), ("block_causal", 4)),
        (("block_size",), "block", ("block", 8), ("block_causal", 8)),
        (("block_size",), "masked", ("masked", 4), ("bidirectional", None)),
        ((), "masked", ("masked", 4), ("bidirectional", None)),
    ],
)
def test_a_checkpoint_made_for_blocks_goes_on_learning_them(
    settings: Callable[..., Settings],
    of_blocks: str,
    left_open: tuple[str, ...],
    objective: str,
    learned: tuple[str, int],
    left: tuple[str, int | None],
) -> None:
    chosen = settings(model_name_or_path=of_blocks, objective=objective, block_size=4, max_steps=1)
    told = Console(record=True, width=500, quiet=False, file=io.StringIO())
    done = train(replace(chosen, left_open=left_open), verb="sft", console=told)
    recipe = json.loads((done.folder.parent / "recipe.json").read_text())["recipe"]
    assert (recipe["objective"], recipe["block_size"]) == learned
    assert said(done.folder) == left
    text = told.export_text()
    assert (f"made for blocks: objective is block, block_size {learned[1]}." in text) == (
        learned[0] == "block" and bool(left_open)
    )
    assert ("was made for blocks; trained with objective masked" in text) == (learned[0] == "masked")


def test_a_two_way_checkpoint_decides_nothing(settings: Callable[..., Settings], checkpoint: Path) -> None:
    done = run(replace(settings(max_steps=1), left_open=OPEN))
    recipe = json.loads((done.folder.parent / "recipe.json").read_text())["recipe"]
    assert (recipe["objective"], recipe["block_size"]) == ("masked", 32)
    assert json.loads((done.folder / "config.json").read_text()).keys() == (
        json.loads((checkpoint / "config.json").read_text()).keys()
    )


def test_an_adapter_keeps_its_blocks(settings: Callable[..., Settings], checkpoint: Path, tmp_path: Path) -> None:
    def adapted(name: str, **more: object) -> Path:
        return run(settings(output_dir=str(tmp_path / name), max_steps=2, **more)).folder

    first = adapted("first", lora=True, r=4, **BLOCKS)
    lm = unmask.load(first, device="cpu")
    assert (lm.model.facts.attention, lm.model.facts.block_size) == ("block_causal", 4)
    onwards = replace(settings(output_dir=str(tmp_path / "on"), adapter=str(first), max_steps=2), left_open=OPEN)
    again = unmask.load(checkpoint, adapter=run(onwards).folder, device="cpu").model.facts
    assert (again.attention, again.block_size) == ("block_causal", 4)
    as_base = settings(model_name_or_path=str(first), output_dir=str(tmp_path / "wrong"))
    with pytest.raises(ModelError, match="is an adapter, not a model"):
        run(replace(as_base, left_open=OPEN))
    merge_adapter(str(first), str(tmp_path / "merged"))
    assert said(tmp_path / "merged") == ("block_causal", 4)
    assert "| block_size | 4, as it was trained |" in (tmp_path / "merged" / "README.md").read_text()
    opened = unmask.load(adapted("open", adapter=str(first)), device="cpu").model.facts
    assert (opened.attention, opened.block_size) == ("bidirectional", None)
    assert said(checkpoint) == ("bidirectional", None)


@pytest.mark.parametrize("changes", [{"loss_weight": "cart"}, {"attention_annealing_steps": 5}, {"time_epsilon": 0.3}])
def test_what_is_for_whole_rows_is_not_done_to_blocks(
    settings: Callable[..., Settings], of_blocks: str, changes: dict
) -> None:
    chosen = settings(model_name_or_path=of_blocks, **changes)
    with pytest.raises(ConfigError, match="was made for blocks and would go on learning them.*Add --objective masked"):
        run(replace(chosen, left_open=OPEN))
    with pytest.raises(ConfigError, match=r"max_length \(96\) must be a multiple of block_size \(7\)"):
        run(replace(settings(model_name_or_path=of_blocks, padding="block", block_size=7), left_open=("objective",)))
