"""Running out of memory is answered with what took it and with settings that would fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unmask.errors import ResourceError
from unmask.models.facts import read_facts
from unmask.objectives.masked import MaskedDiffusion
from unmask.training import shortage
from unmask.training.arguments import Settings
from unmask.training.memory_question import estimate_of
from unmask.training.run import train

Make = Callable[..., Settings]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_it_names_the_largest_and_what_would_fit(
    settings: Make, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    asked = settings(per_device_train_batch_size=8)
    facts = read_facts(checkpoint)
    whole = estimate_of(asked, "sft", facts)
    halved = replace(
        asked, trainer={**asked.trainer, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    )
    half = estimate_of(halved, "sft", facts)
    size = (whole.peak + half.peak) // 2 / 0.92
    monkeypatch.setattr(shortage, "size_of", lambda device: int(size))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(MaskedDiffusion, "__call__", fail)
    with pytest.raises(ResourceError, match="ran out of memory") as told:
        train(asked, verb="sft")
    largest = max(whole.parts, key=lambda part: part[1])[0]
    assert re.search(rf"takes [\d.]+ \w+: {largest} [\d.]+ \w+, ", str(told.value))
    assert "--per_device_train_batch_size 4 --gradient_accumulation_steps 2" in str(told.value)


def test_a_budget_of_tokens_is_what_is_lowered(settings: Make, checkpoint: Path) -> None:
    asked, facts = settings(tokens_per_batch=8 * 96), read_facts(checkpoint)
    half = estimate_of(settings(tokens_per_batch=4 * 96), "sft", facts)
    said = shortage.explanation(asked, "sft", facts, int(half.peak / 0.91))
    assert "--tokens_per_batch 384 --gradient_accumulation_steps 2 it would take" in said
    assert "per_device_train_batch_size" not in said and "from as many tokens at a time" in said
    # no budget below the longest row
    assert shortage._smaller(16)(asked) == {}


def test_where_nothing_fits_it_says_so(settings: Make, checkpoint: Path) -> None:
    said = shortage.explanation(settings(), "sft", read_facts(checkpoint), 1000)
    assert "--lora true" in said and "With --" not in said


def test_other_errors_are_left_alone(settings: Make, checkpoint: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="shape"),
        shortage.explained(settings(), "sft", read_facts(checkpoint), torch.device("cpu")),
    ):
        raise RuntimeError("shapes do not match")
