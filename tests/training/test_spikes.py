"""A jump of the loss is told once, ordinary runs tell nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from transformers import TrainerControl, TrainerState

from unmask.training.arguments import Settings
from unmask.training.run import train
from unmask.training.spikes import Spikes


def told_of(values: list[float], every: int = 5) -> list[str]:
    told: list[str] = []
    watch, nothing = Spikes(8, told.append), None
    for number, value in enumerate(values, 1):
        state = TrainerState(global_step=every * number, is_world_process_zero=True)
        watch.on_log(nothing, state, TrainerControl(), {"unscaled_loss": value})  # type: ignore[arg-type]
    return told


def test_a_jump_is_told_with_its_samples() -> None:
    chance = random.Random(0)
    values = [5 - 0.01 * number + chance.gauss(0, 0.1) for number in range(60)]
    values[40] += 3
    (told,) = told_of(values)
    assert "jumped to 7." in told
    assert "in updates 201 to 205, samples 1,600 to 1,639 of the run's order" in told


def test_noise_and_progress_are_not() -> None:
    chance = random.Random(1)
    for scale in (0.0, 0.01, 0.3):
        values = [9 * 0.99**number + chance.gauss(0, scale) for number in range(500)]
        assert told_of(values) == []


def test_real_runs_tell_nothing(settings: Callable[..., Settings], capsys: Any) -> None:
    for seed in range(3):
        train(settings(max_steps=30, seed=seed, output_dir=f"{settings().trainer['output_dir']}-{seed}"), verb="sft")
    told = capsys.readouterr().out
    assert "step 30/30" in told and "jumped" not in told
