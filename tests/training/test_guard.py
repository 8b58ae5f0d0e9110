"""What is no number never reaches the weights; a run that meets too much of it stops, and leaves what it met."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unmask.cli.main import main
from unmask.errors import ModelError
from unmask.models.tokenizers import load_tokenizer
from unmask.objectives.masked import MaskedDiffusion
from unmask.training import replay
from unmask.training.arguments import Settings
from unmask.training.run import train
from unmask.types import LossSums

Make = Callable[..., Settings]


@pytest.fixture
def broken_updates(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Break the loss of some forwards in training, counted from 1: its value, or only its gradients."""

    def at(*forwards: int, gradient_only: bool = False) -> None:
        seen, call = iter(range(1, 1000)), MaskedDiffusion.__call__

        def broken(self: MaskedDiffusion, *args, **kwargs) -> LossSums:
            sums = call(self, *args, **kwargs)
            if not torch.is_grad_enabled() or next(seen) not in forwards:
                return sums
            loss = sums.loss * float("nan")
            if gradient_only:
                loss = sums.loss + (loss - loss.detach()).nan_to_num() + 0 * sums.loss
                loss.register_hook(lambda gradient: gradient * float("inf"))
            return LossSums(loss=loss, metrics=sums.metrics, nll_S=sums.nll_S)

        monkeypatch.setattr(MaskedDiffusion, "__call__", broken)

    return at


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("gradient_only", [False, True], ids=["loss", "gradient"])
def test_an_update_without_numbers_leaves_the_weights_alone(
    settings: Make, broken_updates: Callable, gradient_only: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_updates(2, gradient_only=gradient_only)
    every = {"save_strategy": "steps", "save_steps": 1}
    result = train(settings(**every, max_steps=3), verb="sft")
    one, two, three = (weights(result.folder.parent / f"checkpoint-{step}") for step in (1, 2, 3))
    assert all(one[name].equal(two[name]) for name in one)
    assert any(not two[name].equal(three[name]) for name in two)
    assert all(tensor.isfinite().all() for tensor in three.values())
    reports = [line for line in result.history if "loss" in line]
    assert [line["step"] for line in reports] == [1, 3]
    assert all(math.isfinite(value) for line in result.history for value in line.values())
    assert reports[-1]["skipped_updates"] == 1
    assert "update 2 is left out" in " ".join(capsys.readouterr().out.split())


def test_a_forward_without_numbers_spoils_its_whole_update_and_no_other(
    settings: Make, broken_updates: Callable
) -> None:
    broken_updates(3)
    more = {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 4}
    result = train(settings(**more, gradient_accumulation_steps=2, max_steps=3), verb="sft")
    one, two, three = (weights(result.folder.parent / f"checkpoint-{step}") for step in (1, 2, 3))
    assert all(one[name].equal(two[name]) for name in one)
    assert any(not two[name].equal(three[name]) for name in two)


def test_three_in_a_row_end_the_run(settings: Make, broken_updates: Callable, tmp_path: Path) -> None:
    broken_updates(2, 3, 4)
    with pytest.raises(ModelError, match=r"not a number at update 4, as in the 2 before.*--replay .*replay-4"):
        train(settings(max_steps=6, save_strategy="steps", save_steps=1), verb="sft")
    kept = weights(tmp_path / "run" / "checkpoint-1")
    assert all(tensor.equal(kept[name]) for name, tensor in weights(tmp_path / "run" / "replay-4").items())


def test_the_reason_is_told_where_a_replay_has_no_room(
    settings: Make, broken_updates: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, write: object) -> None:
        raise OSError(28, "No space left on device")

    broken_updates(2, 3, 4)
    monkeypatch.setattr(replay.safekeeping, "write_whole", full)
    with pytest.raises(ModelError, match="not a number at update .* could not be written: .*No space left"):
        train(settings(max_steps=6), verb="sft")


def test_replay_shows_the_rows(
    settings: Make, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # a letter that cannot be read: each row in which it stands breaks, and with it the update
    broken, rows = tmp_path / "broken", tmp_path / "rows.jsonl"
    broken.mkdir()
    for file in checkpoint.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(checkpoint / "model.safetensors")
    name = next(name for name in tensors if "wte" in name or "embed" in name)
    (letter,) = load_tokenizer(checkpoint)("b", add_special_tokens=False)["input_ids"]
    tensors[name][letter] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    said = [["dog cat", "cat dog"], ["red bed", "red red"]]
    turns = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in said * 8]
    rows.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    with pytest.raises(ModelError, match="--replay") as stopped:
        train(settings(model_name_or_path=str(broken), dataset_args=str(rows), max_steps=6), verb="sft")
    file = str(stopped.value).rpartition("--replay ")[2]
    capsys.readouterr()
    assert main(["sft", "--replay", file, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["samples"]) == 8
    # odd rows have the letter
    assert {seen["row"] % 2 for seen in told["samples"] if not math.isfinite(seen["nll"])} == {1}
    assert told["weights"]
    assert main(["sft", "--replay", file]) == 0
    assert "<- not a number" in capsys.readouterr().out
    assert main(["sft", "--replay", file, "--learning_rate", "1"]) == 2
    assert "takes all settings from its file; leave out learning_rate" in capsys.readouterr().err
    assert main(["sft", "--replay", str(tmp_path / "none.json")]) == 2


def test_a_run_that_hangs_shows_where() -> None:
    code = (
        "import time\n"
        "from unmask.training.watch import Watch\n"
        "Watch(0.5).wind(None, None, None)\n"
        "def the_place_where_it_hangs():\n    time.sleep(60)\n"
        "the_place_where_it_hangs()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "the_place_where_it_hangs" in done.stderr
