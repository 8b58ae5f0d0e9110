"""What every decoding strategy in the table must keep, whoever wrote it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.generation.toys import Contextual
from unmask.generation.canvas import Canvas
from unmask.generation.loop import stream
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal, propose
from unmask.generation.strategy import Step, Transfer
from unmask.registry import STRATEGIES

MASK, VOCAB, WIDTH = 11, 12, 8
NAMES = STRATEGIES.names()


def scene(seed: int, rows: int = 5, length: int = 20) -> tuple[Canvas, Tensor, Step]:
    """A canvas with random holes in an eight-token block at a random place, and logits at its masks."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, length - WIDTH + 1, (rows,), generator=generator)
    place = torch.arange(length)
    inside = (place >= starts[:, None]) & (place < starts[:, None] + WIDTH)
    masked = inside & (torch.rand(rows, length, generator=generator) < 0.7)
    tokens = torch.randint(0, VOCAB - 1, (rows, length), generator=generator).masked_fill(masked, MASK)
    canvas = Canvas(
        tokens, masked, place < starts[:, None], tuple(starts.tolist()), (length,) * rows, tuple(range(rows))
    )
    logits = torch.randn(rows, length, VOCAB, generator=generator) * 3
    quota = (torch.rand(rows, generator=generator) * masked.sum(1)).long().clamp(min=1)
    return canvas, logits, Step(0, (0,) * rows, (2,) * rows, WIDTH, starts, quota, tuple(range(40, 40 + rows)))


def chosen(name: str, canvas: Canvas, logits: Tensor, step: Step, **settings: Any) -> tuple[Proposal, Transfer]:
    strategy = STRATEGIES.get(name)(GenerationOptions.of(strategy=name, **settings))
    proposal = propose(logits[canvas.is_masked_BL], canvas.is_masked_BL, never=(MASK,))
    return proposal, strategy.select(proposal, canvas, step, strategy.init(len(canvas.rows)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(20))
def test_only_pending_positions_are_written_and_at_least_one_per_active_row(name: str, seed: int) -> None:
    canvas, logits, step = scene(seed)
    proposal, transfer = chosen(name, canvas, logits, step)
    assert not (transfer.write_BL & ~proposal.pending_BL).any()
    assert torch.equal(transfer.write_BL.any(1), proposal.pending_BL.any(1))
    assert transfer.remask_BL is None or not (transfer.remask_BL & (canvas.given_BL | canvas.is_masked_BL)).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(10))
def test_a_row_of_a_batch_is_the_row_alone(name: str, seed: int) -> None:
    canvas, logits, step = scene(seed)
    _, together = chosen(name, canvas, logits, step)
    for row in range(len(canvas.rows)):
        mine = slice(row, row + 1)
        alone = Step(0, (0,), (2,), WIDTH, step.first_B[mine], step.quota_B[mine], step.seeds[mine])
        part = Canvas(
            canvas.tokens_BL[mine],
            canvas.is_masked_BL[mine],
            canvas.given_BL[mine],
            canvas.starts[mine],
            canvas.ends[mine],
            (0,),
        )
        _, single = chosen(name, part, logits[mine], alone)
        assert torch.equal(single.write_BL[0], together.write_BL[row])


@pytest.mark.parametrize("name", NAMES)
def test_the_same_question_gets_the_same_answer_and_nothing_it_was_given_changes(name: str) -> None:
    canvas, logits, step = scene(3)
    before = (canvas.tokens_BL.clone(), canvas.is_masked_BL.clone(), logits.clone(), step.quota_B.clone())
    _, first = chosen(name, canvas, logits, step)
    _, second = chosen(name, canvas, logits, step)
    assert torch.equal(first.write_BL, second.write_BL)
    after = (canvas.tokens_BL, canvas.is_masked_BL, logits, step.quota_B)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("block_size", [1, 5, 16, None])
def test_a_run_ends_within_its_masks_and_fills_everything(name: str, block_size: int | None) -> None:
    options = GenerationOptions(max_new_tokens=16, block_size=block_size, steps=64, strategy=name, early_stop=False)
    model = Contextual(vocab_size=VOCAB)
    run = stream(model, [[1, 2], [], [3]], options=options, mask_token_id=MASK)
    completions = run.run()
    assert all(len(done.token_ids) == 16 and MASK not in done.token_ids for done in completions)
    assert len(model.shapes) <= 16


@pytest.mark.parametrize("seed", range(10))
def test_a_lower_threshold_writes_no_less(seed: int) -> None:
    canvas, logits, step = scene(seed)
    writes = [chosen("threshold", canvas, logits, step, threshold=tau)[1].write_BL for tau in (1.0, 0.9, 0.6, 0.3, 0.0)]
    for strict, loose in zip(writes, writes[1:], strict=False):
        assert not (strict & ~loose).any()
    assert torch.equal(writes[-1], canvas.is_masked_BL)
    assert torch.equal(writes[0].sum(1), canvas.is_masked_BL.any(1).long())


def tied(quota: int, length: int = 6) -> tuple[Canvas, Tensor, Step]:
    masked = torch.ones(2, length, dtype=torch.bool)
    canvas = Canvas(torch.full((2, length), MASK), masked, ~masked, (0, 0), (length, length), (0, 1))
    logits = torch.zeros(2, length, VOCAB)
    logits[1, 4, 3] = 5.0
    return canvas, logits, Step(0, (0, 0), (0, 0), length, torch.zeros(2).long(), torch.tensor([quota, quota]), (1, 2))


def test_ties_go_to_the_earlier_position() -> None:
    _, confident = chosen("confidence", *tied(quota=3))
    assert [row.nonzero()[:, 0].tolist() for row in confident.write_BL] == [[0, 1, 2], [0, 1, 4]]
    _, sure = chosen("threshold", *tied(quota=3), threshold=0.99)
    assert [row.nonzero()[:, 0].tolist() for row in sure.write_BL] == [[0], [4]]


def test_ties_go_to_the_earlier_position_in_long_rows_too() -> None:
    # Short rows hide an unstable sort.
    _, transfer = chosen("confidence", *tied(quota=100, length=1000))
    assert transfer.write_BL[0].nonzero()[:, 0].tolist() == list(range(100))


def test_exactly_the_threshold_is_enough() -> None:
    canvas, logits, step = tied(quota=1)
    logits[..., 2:] = -torch.inf  # two tokens of probability one half each
    _, transfer = chosen("threshold", canvas, logits, step, threshold=0.5)
    assert transfer.write_BL[0].all()


def test_random_order_is_uniform_over_positions() -> None:
    canvas, logits, _ = tied(quota=1)
    counts = torch.zeros(6)
    for seed in range(600):
        step = Step(0, (0, 0), (0, 0), 6, torch.zeros(2).long(), torch.ones(2).long(), (seed, seed + 10_000))
        counts += chosen("random", canvas, logits, step)[1].write_BL.sum(0)
    assert counts.sum() == 1200
    assert ((counts - 200) ** 2 / 200).sum() < 20.52  # 0.999 quantile, 5 degrees of freedom
