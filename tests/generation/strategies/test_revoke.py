"""Writing widely and taking back: the rule by lists of numbers, and that it always ends."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.generation.scenes import drive, made, of_confidence, places, scene, written
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions
from unmask.models.checkpoints import load_model


def by_lists(sure: Tensor, check: Tensor, write_bar: float, check_bar: float) -> list[tuple[list[int], list[int]]]:
    """One block by WINO's rule: what each step wrote and what it took back."""
    masks, done, before = set(range(sure.shape[1])), [], 30
    for draft, held in zip(sure.tolist(), check.tolist(), strict=True):
        order = sorted(masks, key=lambda place: (-draft[place], place))
        most = min(max(int(0.7 * len(masks)), 5), 20)
        wrote = [place for place in order if draft[place] >= write_bar][:most] or order[:1]
        filled = [place for place in range(len(draft)) if place not in masks]
        back = sorted((place for place in filled if held[place] < check_bar), key=lambda place: (held[place], place))
        back = [] if len(wrote) < 2 else back if len(back) < before else back[: before - 1]
        before = len(wrote)
        masks = (masks - set(wrote)) | set(back)
        done.append((sorted(wrote), sorted(back)))
        if not masks:
            break
    return done


def play(sure: Tensor, check: Tensor, **settings: float) -> list[tuple[list[int], list[int]]]:
    logits = [of_confidence([row], vocab=60) for row in sure.tolist()]
    played = drive("revoke", lambda step: logits[step], lambda step: check[step][None].log(), **settings)
    backs = [transfer.remask_BL for transfer in played.history]
    return [(wrote, places(back)[0]) for wrote, back in zip(written(played), backs, strict=True) if back is not None]


@pytest.mark.parametrize("length", [1, 7, 40])
def test_it_is_the_rule_list_by_list(length: int) -> None:
    generator, steps, taken = torch.Generator().manual_seed(length), 0, 0
    for case in range(6):
        # From one that holds nearly everything to one that doubts nearly everything.
        sure = torch.rand(length, length, generator=generator, dtype=torch.float64) ** (0.2 + case % 4) * 0.9 + 0.05
        check = torch.rand(length, length, generator=generator, dtype=torch.float64) ** (0.1 + case % 3)
        ours = play(sure, check)
        assert ours == by_lists(sure, check, 0.6, 0.9)
        steps, taken = steps + len(ours), taken + sum(len(back) for _, back in ours)
    assert length < 8 or taken > steps / 4


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("verify_threshold", [0.5, 1.0])
def test_a_block_takes_no_more_steps_than_it_has_tokens(threshold: float, verify_threshold: float) -> None:
    rows, length = 80, 24
    generator = torch.Generator().manual_seed(2)
    draws = torch.randn(length + 1, rows, length, 8, generator=generator) * torch.linspace(0.1, 8, rows)[:, None, None]
    doubts = torch.rand(length + 1, rows, length, generator=generator).log()
    settings = {"threshold": threshold, "verify_threshold": verify_threshold}
    played = drive("revoke", lambda step: draws[step], lambda step: doubts[step], **settings)
    assert max(played.steps) <= length
    assert sum(played.steps) > 4 * rows  # far from done at once: much is taken back


def test_a_wrong_token_is_taken_back_and_written_again() -> None:
    sure = torch.tensor([[0.9, 0.8, 0.7, 0.2, 0.1, 0.1], [0.9, 0.9, 0.9, 0.7, 0.65, 0.1], [0.9] * 6, [0.9] * 6])
    hold = torch.full((4, 6), 0.99)
    hold[1, 1] = 0.3
    assert play(sure, hold) == [([0, 1, 2], []), ([3, 4], [1]), ([1, 5], [])]


def test_one_token_written_takes_nothing_back_and_fewer_go_than_came() -> None:
    sure = torch.tensor([[0.9, 0.8, 0.7] + [0.1] * 5, [0.9] * 3 + [0.7, 0.7] + [0.1] * 3, *[[0.1] * 8] * 6])
    doubt = torch.full((8, 8), 0.5)
    doubt[1, :3] = torch.tensor([0.3, 0.1, 0.2])
    steps = play(sure, doubt)
    # Of three that are doubted the two worst go; then one token is written at a time, and nothing goes.
    assert steps[:2] == [([0, 1, 2], []), ([3, 4], [1, 2])]
    assert all(len(wrote) == 1 and not back for wrote, back in steps[2:])


def test_given_tokens_and_those_of_other_blocks_stay() -> None:
    shown = scene(of_confidence([[0.9, 0.9, 0.9, 0.9]]), torch.tensor([[False, False, True, True]]), within=1)
    strategy = made("revoke")
    state = strategy.init(1)
    first = scene(of_confidence([[0.9] * 4]))
    zeros = torch.full((1, 4), -math.inf)
    strategy.select(replace(first.proposal, verify_log_prob_BL=zeros), first.canvas, first.step, state)
    proposal = replace(shown.proposal, verify_log_prob_BL=torch.full((1, 4), -9.0))
    canvas = replace(shown.canvas, given_BL=torch.tensor([[True, False, False, False]]))
    transfer = strategy.select(proposal, canvas, shown.step, state)
    assert transfer.remask_BL is not None and places(transfer.remask_BL) == [[1]]


def test_without_a_check_it_refuses() -> None:
    shown, strategy = scene(of_confidence([[0.9, 0.9]])), made("revoke")
    with pytest.raises(ValueError, match="must verify what is written"):
        strategy.select(shown.proposal, shown.canvas, shown.step, strategy.init(1))


def test_a_model_is_decoded_to_the_end_and_each_row_as_if_alone(tmp_path: Path) -> None:
    model = load_model(tiny.write_checkpoint(tmp_path, weights=False), from_scratch=True, seed=3)
    options = GenerationOptions.of(
        strategy="revoke", max_new_tokens=24, block_size=8, threshold=0.01, verify_threshold=0.5, trace=True
    )
    prompts = [[10, 11, 12], [13], [14, 15, 16, 17]]
    together = generate(model, prompts, options=options, mask_token_id=0)
    assert all(len(row.token_ids) == 24 and 0 not in row.token_ids for row in together)
    assert all(row.stats.forwards.denoise <= 24 for row in together)
    taken = [len(commit.remasked) for row in together if row.trace for commit in row.trace.commits]
    assert sum(taken) > 10
    alone = [generate(model, [prompt], options=options, mask_token_id=0)[0] for prompt in prompts]
    assert [row.token_ids for row in alone] == [row.token_ids for row in together]
