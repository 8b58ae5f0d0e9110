"""What is shared is computed once, and changes no answer."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tests.objectives.test_likelihoods import SIZE, tiny
from unmask.models.shell import DiffusionModel
from unmask.objectives.asking import Pair
from unmask.objectives.blockwise import BlockwiseEstimator
from unmask.objectives.estimators import LikelihoodEstimator, causal_log_likelihoods
from unmask.objectives.greedy import are_greedy_causal
from unmask.objectives.shared_prompts import Line, batches, families, shared


def questions(*, examples: int = 0, prompt: int = 20, answers: int = 4, count: int = 3, seed: int = 0) -> list[Pair]:
    """Questions with answers of one to four tokens, after the same examples, in an order that mixes them."""
    chance = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [chance.randrange(SIZE - 1) for _ in range(length)]

    begun, pairs = ids(examples), list[Pair]()
    for number in range(count):
        question = [*begun, *ids(prompt + number)]
        pairs += [(question, ids(1 + answer)) for answer in range(answers)]
    chance.shuffle(pairs)
    return pairs


def mixed() -> list[Pair]:
    """Questions with many and few answers, equal pairs, prompts of one token, texts alone, empty targets."""
    pairs = [*questions(), *questions(examples=40, answers=1, seed=1), *questions(prompt=1, answers=9, seed=2)]
    lone: list[Pair] = [([0], list(range(1, 15))), ([0], [4, 4]), ([5, 6, 7], []), ([5, 6, 7], [8])]
    return [*pairs, *lone, pairs[0], (pairs[0][0][:-2], [*pairs[0][0][-2:], 3])]


class Counting:
    """A model that counts the tokens it is fed."""

    def __init__(self, model: DiffusionModel) -> None:
        self.model, self.new_cache, self.tokens, self.rows = model, model.new_cache, 0, 0

    def __call__(self, tokens_BL: torch.Tensor, **asked: Any) -> Any:
        self.tokens, self.rows = self.tokens + tokens_BL.numel(), max(self.rows, len(tokens_BL))
        return self.model(tokens_BL, **asked)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("name, changes", [("qwen2", {}), ("llama", {}), ("mistral", {"sliding_window": 9})])
def test_likelihoods_and_verdicts_are_those_without_sharing(name: str, changes: dict[str, Any], batch_size: int):
    model, pairs = tiny(name, **changes).double(), mixed()
    together = dict(causal_log_likelihoods(model, pairs, batch_size=batch_size))
    greedy = dict(are_greedy_causal(model, pairs, batch_size=batch_size))
    for index, pair in enumerate(pairs):
        ((_, alone),) = causal_log_likelihoods(model, [pair], shares=False)
        assert together[index].mean == pytest.approx(alone.mean, abs=1e-10)
        assert [(0, greedy[index])] == list(are_greedy_causal(model, [pair], shares=False))
    assert sorted(together) == sorted(greedy) == list(range(len(pairs)))


def test_a_prompt_is_fed_once():
    """Three questions of 20 to 22 tokens with answers of 1 to 4, of which the last token is not fed."""
    counting, pairs = Counting(tiny("qwen2")), questions()
    list(causal_log_likelihoods(counting, pairs, batch_size=12))
    # prompts to the longest, but for their last tokens; then twelve rows of that token and answers, all to the longest
    assert counting.tokens == 3 * 21 + 12 * 4
    counting.tokens = 0
    list(causal_log_likelihoods(counting, pairs, batch_size=12, shares=False))
    assert counting.tokens == 12 * 25


def test_examples_are_fed_once_and_a_cache_has_no_more_rows_than_a_forward():
    pairs = questions(examples=40, answers=1, count=8, prompt=4)
    counting = Counting(tiny("qwen2"))
    list(causal_log_likelihoods(counting, pairs, batch_size=8))
    # all of the prompts begins with 40 tokens; the longest goes on for eleven, and answers have one
    assert (counting.tokens, counting.rows) == (40 + 8 * 11, 8)
    counting = Counting(tiny("qwen2"))
    list(causal_log_likelihoods(counting, mixed(), batch_size=4))
    assert counting.rows == 4


def test_every_line_is_in_one_batch_and_lines_of_one_prompt_are_neighbours():
    chance = random.Random(0)
    prompts = [tuple(chance.randrange(2) for _ in range(chance.randrange(6))) for _ in range(60)]
    lines = [Line(torch.tensor([*prompt, *[1] * chance.randrange(1, 4)]), prompt) for prompt in prompts]
    found = list(batches(lines, 7))
    assert sorted(number for batch in found for number in batch) == list(range(60))
    assert max(map(len, found)) <= 7
    order = [prompts[number] for batch in found for number in batch if prompts[number]]
    changes = sum(a != b for a, b in zip(order, order[1:], strict=False))
    assert changes + 1 == len(set(order))


def test_families_share_at_least_half():
    prompts = [(1, 2, 3, 4), (1, 2, 9, 9), (1, 7, 7, 7), (2,), (1, 2, 9, 9, 5, 6, 7, 8, 9, 0)]
    assert families(prompts) == [[(1, 2, 3, 4), (1, 2, 9, 9)], [(1, 2, 9, 9, 5, 6, 7, 8, 9, 0), (1, 7, 7, 7), (2,)]]
    assert [shared(prompts[:2]), shared(prompts[:3]), shared(prompts[:1]), shared([(), (1,)])] == [2, 0, 0, 0]


@pytest.mark.parametrize("scale", [0.0, 0.7])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_bounds_of_blocks_are_those_without_sharing(scale: float, batch_size: int):
    """Prompts that end within a block and at its edge, targets within one block and over several, all at once."""
    model = tiny("a2d-qwen3", attention="block_causal", block_size=3).double()
    how = LikelihoodEstimator(SIZE - 1, samples=6, batch_size=batch_size, guidance_scale=scale, profiled=True)
    pairs = [*questions(prompt=37), *questions(prompt=2, seed=1), ([], [1, 2, 3, 4, 5]), ([1, 2, 3, 4, 5, 6], [])]
    shared_ones = dict(BlockwiseEstimator(how, 3).many(model, pairs))
    for index, pair in enumerate(pairs):
        ((_, alone),) = BlockwiseEstimator(how, 3, shares=False).many(model, [pair])
        assert shared_ones[index].mean == pytest.approx(alone.mean, abs=1e-10)
        assert shared_ones[index].stderr == pytest.approx(alone.stderr, abs=1e-10)
    assert sorted(shared_ones) == list(range(len(pairs)))


def test_complete_blocks_of_a_prompt_are_fed_once():
    """Four answers of one token in their own block, seven masks each: 30 tokens of prompt, then what is left."""
    prompt, counting = list(range(16)) * 2, Counting(tiny("a2d-qwen3", attention="block_causal", block_size=5))
    pairs: list[Pair] = [(prompt[:30], [choice, 1, 2]) for choice in range(4)]
    how = LikelihoodEstimator(SIZE - 1, samples=7, batch_size=7)
    list(BlockwiseEstimator(how, 5).many(counting, pairs))
    assert counting.tokens == 30 + 4 * 7 * 3
    counting.tokens = 0
    list(BlockwiseEstimator(how, 5, shares=False).many(counting, pairs))
    assert counting.tokens == 4 * (30 + 7 * 3)


def test_mixtures_of_experts_share_prompts_too():
    counting, pairs = Counting(tiny("llada2").double()), questions(prompt=36, count=2)
    how = LikelihoodEstimator(SIZE - 1, samples=6, batch_size=8)
    together, fed = dict(BlockwiseEstimator(how, 4).many(counting, pairs)), counting.tokens
    apart = dict(BlockwiseEstimator(how, 4, shares=False).many(counting, pairs))
    assert [together[index].mean for index in apart] == pytest.approx([each.mean for each in apart.values()], abs=1e-9)
    assert fed < counting.tokens - fed
