"""What every decoding strategy in the table must keep, whoever wrote it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.generation.toys import Contextual
from unmask.generation.canvas import Canvas
from unmask.generation.loop import stream
from unmask.generation.options import GenerationOptions, Score
from unmask.generation.proposal import Proposal, Rules, propose, verified
from unmask.generation.strategy import DecodingStrategy, Step, Transfer
from unmask.registry import STRATEGIES

MASK, VOCAB, WIDTH = 11, 12, 8
NAMES = STRATEGIES.names()
SCORES = get_args(Score)
# for each strategy with a test, its knob from strict to loose
KNOBS: dict[str, tuple[str, list[float]]] = {
    "threshold": ("threshold", [1.0, 0.9, 0.6, 0.3, 0.0]),
    "llada2": ("threshold", [1.0, 0.9, 0.6, 0.3, 0.0]),
    "local_leap": ("leap_threshold", [1.0, 0.8, 0.6, 0.3, 0.0]),
    "adaptive": ("threshold", [1.0, 0.9, 0.6, 0.3, 0.0]),
    "slow_fast": ("threshold", [1.0, 0.9, 0.6, 0.3, 0.0]),
    "revoke": ("threshold", [1.0, 0.9, 0.6, 0.3, 0.0]),
    "edit": ("threshold", [1.0, 0.9, 0.6, 0.3, 0.0]),
    "hierarchical": ("threshold", [1.0, 0.9, 0.6, 0.3, 0.0]),
    "credit": ("threshold", [1.0, 0.9, 0.6, 0.3, 0.0]),
    "factor": ("factor", [0.0, 0.5, 1.0, 2.0, 100.0]),
    "entropy_bounded": ("entropy_bound", [0.0, 0.1, 0.5, 2.0, 100.0]),
}


def scene(seed: int, rows: int = 5, length: int = 20) -> tuple[Canvas, Tensor, Step]:
    """A canvas with random holes in an eight-token block at a random place, and logits everywhere."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, length - WIDTH + 1, (rows,), generator=generator)
    place = torch.arange(length)
    inside = (place >= starts[:, None]) & (place < starts[:, None] + WIDTH)
    masked = inside & (torch.rand(rows, length, generator=generator) < 0.7)
    given = (place < starts[:, None]) | (inside & ~masked & (torch.rand(rows, length, generator=generator) < 0.3))
    tokens = torch.randint(0, VOCAB - 1, (rows, length), generator=generator).masked_fill(masked, MASK)
    canvas = Canvas(tokens, masked, given, tuple(starts.tolist()), (length,) * rows, tuple(range(rows)))
    logits = torch.randn(rows, length, VOCAB, generator=generator) * 3
    quota = (torch.rand(rows, generator=generator) * masked.sum(1)).long().clamp(min=1)
    return canvas, logits, Step(0, (0,) * rows, (2,) * rows, WIDTH, starts, quota, tuple(range(40, 40 + rows)))


def filled_of(canvas: Canvas, step: Step) -> Tensor:
    """What was written in the block before this step."""
    place = torch.arange(canvas.tokens_BL.shape[1]) - step.first_B[:, None]
    return (place >= 0) & (place < step.block_size) & ~canvas.is_masked_BL & ~canvas.given_BL


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU: numbers asked for, and results whose size depends on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_booleans = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for arg in args
            if isinstance(arg, list | tuple)
            for index in arg
        )
        waits = name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2")
        assert not waits and not by_booleans, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


def proposed(strategy: DecodingStrategy, canvas: Canvas, logits: Tensor, step: Step, state: Any) -> Proposal:
    """What the loop would show this strategy."""
    filled = filled_of(canvas, step)
    wanted = canvas.is_masked_BL | filled if getattr(strategy, "reads_filled", False) else canvas.is_masked_BL
    wanted_logits, adjusted = logits[wanted], getattr(strategy, "adjusted", None)
    if adjusted is not None:
        wanted_logits[:, MASK] = -torch.inf
        with NoWaiting():
            wanted_logits = adjusted(wanted_logits, wanted, canvas, step, state)
    proposal = propose(wanted_logits, wanted, Rules((MASK,)))
    if getattr(strategy, "verifies", False):
        proposal = verified(proposal, logits[filled].roll(1, -1), filled, canvas.tokens_BL, never=(MASK,))
    return proposal


def made(name: str, **settings: Any) -> DecodingStrategy:
    return STRATEGIES.get(name)(GenerationOptions.of(strategy=name, **settings))


def chosen(name: str, canvas: Canvas, logits: Tensor, step: Step, **settings: Any) -> tuple[Proposal, Transfer]:
    strategy = made(name, **settings)
    state = strategy.init(len(canvas.rows))
    proposal = proposed(strategy, canvas, logits, step, state)
    return proposal, strategy.select(proposal, canvas, step, state)


def of_row(row: int, canvas: Canvas, logits: Tensor, step: Step) -> tuple[Canvas, Tensor, Step]:
    """One row of a scene, as a scene."""
    mine = slice(row, row + 1)
    single = Step(0, (0,), step.withins[mine], WIDTH, step.first_B[mine], step.quota_B[mine], step.seeds[mine])
    return replace(canvas.take([row]), rows=(0,)), logits[mine], single


@pytest.mark.parametrize("score", [None, *SCORES])
@pytest.mark.parametrize("name", NAMES)
def test_masks_are_written_in_every_active_row_and_nothing_that_is_given_changes(name: str, score: str | None) -> None:
    for seed in range(4):
        canvas, logits, step = scene(seed)
        proposal, transfer = chosen(name, canvas, logits, step, score=score)
        assert not (transfer.write_BL & ~proposal.pending_BL).any()
        assert not (transfer.write_BL & canvas.given_BL).any()
        assert torch.equal((transfer.write_BL & canvas.is_masked_BL).any(1), canvas.is_masked_BL.any(1))
        if transfer.remask_BL is not None:
            assert not (transfer.remask_BL & ~filled_of(canvas, step)).any()
            assert not (transfer.remask_BL & transfer.write_BL).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(2))
def test_the_same_question_gets_the_same_answer_and_nothing_it_was_given_changes(name: str, seed: int) -> None:
    canvas, logits, step = scene(seed)
    given = (canvas.tokens_BL, canvas.is_masked_BL, canvas.given_BL, logits, step.quota_B, step.first_B)
    before = [tensor.clone() for tensor in given]
    _, first = chosen(name, canvas, logits, step)
    _, second = chosen(name, canvas, logits, step)
    assert torch.equal(first.write_BL, second.write_BL)
    assert all(torch.equal(old, new) for old, new in zip(before, given, strict=True))


@pytest.mark.parametrize("score", [None, *SCORES])
@pytest.mark.parametrize("name", NAMES)
def test_the_device_is_asked_for_no_number(name: str, score: str | None) -> None:
    canvas, logits, step = scene(1)
    strategy = made(name, score=score, score_temperature=0.5)
    state = strategy.init(len(canvas.rows))
    for within in (0, 1):
        now = replace(step, withins=(within,) * len(canvas.rows))
        proposal = proposed(strategy, canvas, logits, now, state)
        with NoWaiting():
            strategy.select(proposal, canvas, now, state)


def test_what_makes_the_host_wait_is_seen() -> None:
    mask = torch.tensor([True, False])
    for waits in (lambda: mask.any().item(), mask.nonzero, lambda: mask[mask], lambda: bool(mask[0])):
        with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
            waits()


@dataclass
class Told:
    """A request of several rows, each a block of eight tokens, decoded with logits that are told for each step."""

    name: str
    seed: int
    settings: dict[str, Any]

    def logits(self, row: int, within: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.seed + 100 * row + within)
        # Predictions that wander slowly, so that rules which wait for calm are met, too.
        drift = torch.randn(WIDTH, VOCAB, generator=generator) * (0.02 if within % 4 else 1.0)
        base = torch.randn(WIDTH, VOCAB, generator=torch.Generator().manual_seed(self.seed + row)) * 3
        return base + drift

    def run(self, strategy: DecodingStrategy, state: Any, rows: list[int], slots: list[int]) -> list[list[list[int]]]:
        """The canvas of each row after each of its steps; a finished row takes part no more."""
        tokens = torch.full((len(rows), WIDTH), MASK)
        masked = torch.ones(len(rows), WIDTH, dtype=torch.bool)
        history: list[list[list[int]]] = [[] for _ in rows]
        within, active = 0, list(range(len(rows)))
        while active:
            assert within <= 8 * WIDTH
            canvas = Canvas(
                tokens[active],
                masked[active],
                torch.zeros(len(active), WIDTH, dtype=torch.bool),
                (0,) * len(active),
                (WIDTH,) * len(active),
                tuple(slots[index] for index in active),
            )
            zeros, count = torch.zeros(len(active), dtype=torch.int64), len(active)
            seeds = tuple(rows[index] for index in active)
            step = Step(within, (0,) * count, (within,) * count, WIDTH, zeros, zeros + 1, seeds)
            logits = torch.stack([self.logits(rows[index], within) for index in active])
            proposal = proposed(strategy, canvas, logits, step, state)
            transfer = strategy.select(proposal, canvas, step, state)
            after = canvas.apply(transfer.write_BL, proposal.predicted_BL, transfer.remask_BL, MASK)
            tokens[active], masked[active] = after.tokens_BL, after.is_masked_BL
            is_open = after.is_masked_BL.any(1)
            is_open = is_open if transfer.stay_B is None else is_open | transfer.stay_B
            for place, index in enumerate(active):
                history[index].append(after.tokens_BL[place].tolist())
            active, within = [index for place, index in enumerate(active) if is_open[place]], within + 1
        return history

    def fresh(self, rows: list[int], slots: list[int] | None = None) -> list[list[list[int]]]:
        strategy = made(self.name, **self.settings)
        return self.run(strategy, strategy.init(9), rows, slots or list(range(len(rows))))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", [{}, {"threshold": 0.5, "kl_threshold": 0.5, "edit_threshold": 0.6}])
def test_a_row_of_a_batch_is_the_row_alone_at_every_step_and_under_any_number(name: str, settings: dict) -> None:
    told = Told(name, 0, settings)
    together = told.fresh([0, 1, 2])
    assert together == told.fresh([0, 1, 2], slots=[6, 0, 8])
    for row in range(3):
        assert told.fresh([row]) == [together[row]]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_passes_from_one_request_to_the_next_nor_from_one_that_was_broken_off(name: str) -> None:
    settings = {"threshold": 0.5, "kl_threshold": 0.5, "edit_threshold": 0.6}
    # what would show if it stayed
    settings |= {"threshold_decay": 0.9, "max_post_steps": 1}
    told, other = Told(name, 0, settings), Told(name, 50, settings)
    strategy = made(name, **settings)
    state = strategy.init(4)
    other.run(strategy, state, [5, 6, 7, 8], [0, 1, 2, 3])
    assert told.run(strategy, state, [0, 1, 2, 3], [3, 2, 1, 0]) == told.fresh([0, 1, 2, 3])
    canvas, logits, step = scene(0, rows=4)
    step = replace(step, withins=(0, 0, 0, 0))
    strategy.select(proposed(strategy, canvas, logits, step, state), canvas, step, state)
    assert told.run(strategy, state, [0, 1, 2, 3], [0, 1, 2, 3]) == told.fresh([0, 1, 2, 3])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(2))
def test_a_row_of_a_batch_is_the_row_alone_wherever_its_block_begins(name: str, seed: int) -> None:
    canvas, logits, step = scene(seed)
    _, together = chosen(name, canvas, logits, step)
    for row in range(len(canvas.rows)):
        _, single = chosen(name, *of_row(row, canvas, logits, step))
        assert torch.equal(single.write_BL[0], together.write_BL[row])
        # The loop shows the block alone.
        first = canvas.starts[row]
        part, part_logits, part_step = of_row(row, canvas, logits, step)
        cut = Canvas(
            *(t[:, first : first + WIDTH] for t in (part.tokens_BL, part.is_masked_BL, part.given_BL)),
            starts=(0,),
            ends=(WIDTH,),
            rows=(0,),
        )
        at_zero = replace(part_step, first_B=torch.zeros_like(part_step.first_B))
        _, window = chosen(name, cut, part_logits[:, first : first + WIDTH], at_zero)
        assert torch.equal(window.write_BL[0], together.write_BL[row, first : first + WIDTH])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "revoke"])
@pytest.mark.parametrize("block_size", [1, 5, None])
def test_a_run_ends_within_its_masks_and_fills_everything(name: str, block_size: int | None) -> None:
    options = GenerationOptions(max_new_tokens=16, block_size=block_size, steps=64, strategy=name, early_stop=False)
    model = Contextual(vocab_size=VOCAB)
    run = stream(model, [[1, 2], [], [3]], options=options, mask_token_id=MASK)
    completions = run.run()
    assert all(len(done.token_ids) == 16 and MASK not in done.token_ids for done in completions)
    blocks = 16 // (block_size or 16) + 1
    assert len(model.shapes) <= 16 + blocks * (options.max_post_steps if name == "edit" else 0)


@pytest.mark.parametrize("name", KNOBS)
@pytest.mark.parametrize("seed", range(5))
def test_a_looser_knob_writes_no_less(name: str, seed: int) -> None:
    knob, values = KNOBS[name]
    canvas, logits, step = scene(seed)
    writes = [chosen(name, canvas, logits, step, **{knob: value})[1].write_BL & canvas.is_masked_BL for value in values]
    for strict, loose in zip(writes, writes[1:], strict=False):
        assert not (strict & ~loose).any()
    assert (writes[-1].sum() > writes[0].sum()) or name == "local_leap"


def test_every_strategy_with_a_test_of_its_own_is_held_to_its_knob() -> None:
    without = {"confidence", "margin", "entropy", "random", "dream", "klass"}
    assert set(NAMES) == {*KNOBS, *without}


def tied(quota: int, length: int = 6) -> tuple[Canvas, Tensor, Step]:
    masked = torch.ones(2, length, dtype=torch.bool)
    canvas = Canvas(torch.full((2, length), MASK), masked, ~masked, (0, 0), (length, length), (0, 1))
    logits = torch.zeros(2, length, VOCAB)
    logits[1, 4, 3] = 5.0
    return canvas, logits, Step(0, (0, 0), (0, 0), length, torch.zeros(2).long(), torch.tensor([quota, quota]), (1, 2))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random"])
def test_ties_go_to_the_earlier_position(name: str) -> None:
    _, transfer = chosen(name, *tied(quota=3), commit_at_least="quota")
    assert [row.nonzero()[:, 0].tolist() for row in transfer.write_BL] == [[0, 1, 2], [0, 1, 4]]
    # Short rows hide an unstable sort.
    _, transfer = chosen(name, *tied(quota=100, length=1000), commit_at_least="quota")
    assert transfer.write_BL[0].nonzero()[:, 0].tolist() == list(range(100))


def test_exactly_the_threshold_is_enough() -> None:
    canvas, logits, step = tied(quota=1)
    logits[..., 2:] = -torch.inf  # two tokens of probability one half each
    for name in ("threshold", "llada2", "adaptive", "slow_fast", "local_leap", "hierarchical", "revoke", "edit"):
        _, transfer = chosen(name, canvas, logits, step, threshold=0.5)
        # revoke never writes more than its share at once
        assert transfer.write_BL[0].sum() == (5 if name == "revoke" else 6)


def test_random_order_is_uniform_over_positions() -> None:
    canvas, logits, _ = tied(quota=1)
    canvas, logits = canvas.take([0] * 1200), logits[:1].expand(1200, -1, -1)
    zero = torch.zeros(1200, dtype=torch.int64)
    step = Step(0, (0,) * 1200, (0,) * 1200, 6, zero, zero + 1, tuple(range(1200)))
    counts = chosen("random", canvas, logits, step)[1].write_BL.sum(0)
    assert counts.sum() == 1200
    assert ((counts - 200) ** 2 / 200).sum() < 20.52  # 0.999 quantile, 5 degrees of freedom
