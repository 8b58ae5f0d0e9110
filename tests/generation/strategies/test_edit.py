"""Filling and mending, and that it always ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.generation.scenes import drive, written
from tests.models.tiny import build
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions
from unmask.registry import FAMILIES


def wanting(*rows: tuple[list[int], list[float]]) -> Callable[[int], Tensor]:
    """A script: at each step the wanted token of each position and its probability; the last line goes on."""

    def script(within: int) -> Tensor:
        tokens, chances = rows[min(within, len(rows) - 1)]
        probability = torch.full((1, len(tokens), 9), 0.0)
        for place, (token, chance) in enumerate(zip(tokens, chances, strict=True)):
            probability[0, place, :8] = (1 - chance) / 7
            probability[0, place, token] = chance
        return probability.log()

    return script


def test_masks_are_filled_and_written_tokens_replaced_in_one_step() -> None:
    script = wanting(([1, 2, 3], [0.9, 0.4, 0.3]), ([5, 2, 3], [0.7, 0.6, 0.2]), ([5, 2, 3], [0.7, 0.6, 0.3]))
    # The last step finds nothing to change.
    assert written(drive("edit", script)) == [[0], [0, 1], [2], []]


@pytest.mark.parametrize(("bar", "steps"), [(0.0, [[0, 1], [1], []]), (0.69, [[0, 1], [1], []]), (0.71, [[0, 1], []])])
def test_an_edit_must_be_as_probable_as_its_threshold(bar: float, steps: list[list[int]]) -> None:
    script = wanting(([1, 2], [0.9, 0.9]), ([1, 3], [0.9, 0.7]))
    assert written(drive("edit", script, edit_threshold=bar)) == steps


def test_a_token_that_never_settles_is_left_after_the_last_post_step() -> None:
    def flip(within: int) -> Tensor:
        return wanting(([within % 2, 4], [0.9, 0.9]))(0)

    for most in (0, 1, 5, 16):
        history = drive("edit", flip, max_post_steps=most)
        assert written(history) == [[0, 1], *[[0]] * most]


@pytest.mark.parametrize("most", [0, 3, 16])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_it_ends_whatever_the_model_says(most: int, threshold: float) -> None:
    rows, length = 60, 20
    generator = torch.Generator().manual_seed(most)
    draws = torch.randn(length + most + 1, rows, length, 6, generator=generator)
    sharp = torch.linspace(0.1, 6, rows)[:, None, None]
    played = drive("edit", lambda within: draws[within] * sharp, threshold=threshold, max_post_steps=most)
    assert max(played.steps) <= length + most
    # Random predictions never agree with what was written: every row uses its post steps up, after its fills.
    assert min(played.steps) >= most + 1


def test_as_many_post_steps_as_were_asked_for(tmp_path: Path) -> None:
    model = build(tmp_path, FAMILIES.get("llada"))
    options = GenerationOptions(
        max_new_tokens=4, block_size=4, strategy="edit", temperature=2.0, max_post_steps=110, early_stop=False
    )
    (done,) = generate(model, [[5, 6]], options=options, mask_token_id=15)
    # drawn tokens hardly ever settle, and a block of four was given up after 96 steps
    assert len(done.token_ids) == 4 and done.stats.forwards.total > 96
