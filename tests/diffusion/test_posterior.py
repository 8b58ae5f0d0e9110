from __future__ import annotations

import json

import pytest
import torch

from unmask.diffusion.posterior import reveal_counts, reveal_prob
from unmask.diffusion.schedules import Linear, MaskgitCosine


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 64])
def test_even_counts_are_as_equal_as_can_be_larger_first(steps: int):
    masks_B = torch.arange(40)
    for masks, counts in zip(masks_B.tolist(), reveal_counts(masks_B, steps).tolist(), strict=True):
        assert sum(counts) == masks and len(counts) == steps
        assert max(counts) - min(counts) <= 1 and counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    ("masks", "steps", "even", "rounded"),
    [
        (10, 4, [3, 3, 2, 2], [2, 3, 2, 3]),
        (7, 3, [3, 2, 2], [2, 2, 3]),
        (20, 8, [3, 3, 3, 3, 2, 2, 2, 2], [2, 3, 3, 2, 2, 3, 2, 3]),
        (12, 4, [3, 3, 3, 3], [3, 3, 3, 3]),
        (3, 5, [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]),
        (0, 2, [0, 0], [0, 0]),
    ],
)
def test_the_two_rules_as_measured(masks: int, steps: int, even: list[int], rounded: list[int]):
    masks_B = torch.tensor([masks, masks])
    assert reveal_counts(masks_B, steps).tolist() == [even] * 2
    assert reveal_counts(masks_B, steps, how="rounded").tolist() == [rounded] * 2


@pytest.mark.parametrize(
    ("masks", "steps", "counts"),
    [
        # Dream's times 1, 0.75025, 0.5005, 0.25075: shares 0.24975, 0.33289 and 0.499, each rounded down
        (4, 4, [1, 1, 2, 0]),
        (5, 4, [1, 1, 1, 2]),
        (8, 4, [1, 2, 2, 3]),
        (7, 1, [7]),
        (0, 3, [0, 0, 0]),
    ],
)
def test_truncated_counts_by_hand(masks: int, steps: int, counts: list[int]):
    assert reveal_counts(torch.tensor([masks]), steps, how="truncated").tolist() == [counts]


@pytest.mark.parametrize("steps", [1, 2, 7, 64, 300])
def test_truncated_rows_add_up_and_end_in_zeros(steps: int):
    masks_B = torch.arange(200)
    counts_BS = reveal_counts(masks_B, steps, how="truncated")
    assert torch.equal(counts_BS.sum(1), masks_B)
    assert ((counts_BS[:, 1:] == 0) | (counts_BS[:, :-1] > 0)).all()


@pytest.mark.parametrize("case", range(13))
def test_rounded_counts_are_those_of_the_stored_histories(shared, case: int):
    stored = json.loads((shared / "golden/llada/mdlm_sampler.json").read_text())[case]
    settings, mask = stored["settings"], 511
    left = [state[0].count(mask) for state in stored["histories"]]
    observed = [before - after for before, after in zip(left[:-1], left[1:], strict=True)]
    size, total = settings["block_size"], settings["max_new_tokens"]
    blocks = [min(size, total - start) for start in range(0, total, size)]
    schedule = MaskgitCosine() if "cosine" in stored["sampler"] else Linear()
    steps = -(-settings["steps"] // len(blocks))
    counts = reveal_counts(torch.tensor(blocks), steps, how="rounded", schedule=schedule)
    assert [count for count in counts.flatten().tolist() if count] == observed


@pytest.mark.parametrize("schedule", [Linear(), MaskgitCosine()])
@pytest.mark.parametrize("steps", [1, 4, 9, 100])
def test_rounded_rows_add_up_and_end_in_zeros(schedule, steps: int):
    masks_B = torch.arange(200)
    counts_BS = reveal_counts(masks_B, steps, how="rounded", schedule=schedule)
    assert counts_BS.shape == (200, steps) and counts_BS.dtype == torch.int64
    assert torch.equal(counts_BS.sum(1), masks_B)
    assert ((counts_BS[:, 1:] == 0) | (counts_BS[:, :-1] > 0)).all()
    for masks in (7, 130):
        alone = reveal_counts(torch.tensor([masks]), steps, how="rounded", schedule=schedule)
        assert torch.equal(alone[0], counts_BS[masks])


def test_linear_reveals_in_proportion_to_the_time_passed():
    assert reveal_prob(Linear(), 0.6, 0.8) == pytest.approx(0.25)
    s, t = torch.tensor([0.0, 0.3]), torch.tensor([0.5, 0.4])
    torch.testing.assert_close(reveal_prob(Linear(), s, t), torch.tensor([1.0, 0.25]))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="at least 1 step"):
        reveal_counts(torch.tensor([3]), 0)
