from __future__ import annotations

import pytest
import torch

from unmask.diffusion.keys import Purpose
from unmask.generation.strategy import Step, best

SIZE = 4


def numbers(
    seed: int, *, block: int = 0, within: int = 0, purpose: Purpose = Purpose.SAMPLE, first: int = 3, length: int = 12
) -> list[float]:
    """The numbers of the block's positions, in a batch with another row."""
    quota = torch.ones(2, dtype=torch.int64)
    step = Step(0, (block, block), (within, within), SIZE, torch.tensor([first, 1]), quota, (seed, seed + 1))
    return step.uniforms_BL(purpose, length)[0, first : first + SIZE].tolist()


def test_every_row_block_step_purpose_and_position_has_its_own_number() -> None:
    everything = [
        number
        for seed in (1, 2)
        for block in (0, 1)
        for within in (0, 1)
        for purpose in (Purpose.SAMPLE, Purpose.SCORE)
        for number in numbers(seed, block=block, within=within, purpose=purpose)
    ]
    assert len(set(everything)) == 2 * 2 * 2 * 2 * SIZE
    assert all(0 <= number < 1 for number in everything)


def test_a_number_does_not_depend_on_where_the_row_stands_in_its_batch() -> None:
    assert numbers(1) == numbers(1, first=0) == numbers(1, first=5, length=20)


def test_the_best_positions_are_those_of_the_highest_score() -> None:
    score = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])
    pending = torch.tensor([[True, False, True, True], [True, True, True, True]])
    chosen = best(score, pending, torch.tensor([2, 3]))
    assert [row.nonzero()[:, 0].tolist() for row in chosen] == [[2, 3], [0, 1, 2]]
    # Asked for more than there is, it gives what there is.
    assert torch.equal(best(score, pending, torch.tensor([9, 9])), pending)


@pytest.mark.parametrize("quotas", [(1, 1, 1), (0, 1, 1), (0, 0, 0), (2, 1, 3), (1, 1, 12)])
def test_of_equal_scores_the_earlier_one_is_the_better(quotas: tuple[int, ...]) -> None:
    source = torch.Generator().manual_seed(sum(quotas))
    for _ in range(50):
        score_BL = torch.randint(-3, 3, (3, 11), generator=source).float()
        pending_BL = torch.rand(3, 11, generator=source) < 0.5
        chosen = best(score_BL, pending_BL, torch.tensor(quotas))
        for row, quota in enumerate(quotas):
            places = [place for place in range(11) if pending_BL[row, place]]
            places.sort(key=lambda place: (-score_BL[row, place].item(), place))
            assert chosen[row].nonzero()[:, 0].tolist() == sorted(places[:quota]), (score_BL[row], pending_BL[row])
