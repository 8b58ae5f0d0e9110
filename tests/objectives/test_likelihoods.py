"""Many targets at once: equal to each alone, to brute force over orders, and to what the full logits say."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import Tensor

from tests.objectives.test_estimators import LENGTH, MASK, TOYS, exact, wrong_denoiser
from unmask.diffusion.blocks import block_causal, block_ids
from unmask.models.facts import facts_of
from unmask.models.shell import DiffusionModel
from unmask.objectives.blockwise import BlockwiseEstimator
from unmask.objectives.estimators import LikelihoodEstimator, causal_log_likelihoods, masked_nll_sums
from unmask.objectives.target_masks import target_masks
from unmask.registry import FAMILIES

SIZE = 24  # of the tiny models' vocabulary; the last id is their mask


def tiny(name: str, **changes) -> DiffusionModel:
    family = FAMILIES.get(name)
    config = {**family.tiny_config, "vocab_size": SIZE, "model_type": family.model_type, **changes}
    if "mask_token_id" in config or family.attention != "causal":
        config["mask_token_id"] = SIZE - 1
    torch.manual_seed(0)
    model = DiffusionModel(facts_of(config)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3 if weight.dim() > 1 else 1.0)
    return model


def drawn_pairs(count: int, longest: int = 9, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    chance = random.Random(seed)

    def ids(most: int, least: int = 0) -> list[int]:
        return [chance.randrange(SIZE - 1) for _ in range(chance.randint(least, most))]

    return [(ids(longest, 1), ids(longest)) for _ in range(count)]


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("length", [1, 2, 4])
def test_where_all_masks_are_scored_the_bound_is_exact(name: str, length: int):
    for ids in ([0, 2, 1, 1], [1, 1, 0, 2]):
        prompt, target = ids[: LENGTH - length], ids[LENGTH - length :]
        estimator = LikelihoodEstimator(MASK, samples=2**length - 1, batch_size=4)
        ((_, found),) = estimator.many(TOYS[name], [(prompt, target)])
        assert found.mean == pytest.approx(exact(TOYS[name], prompt, target), abs=1e-5)
        assert (found.stderr, found.samples) == (0.0, 2**length - 1)


def test_one_sample_fewer_and_masks_are_drawn():
    assert target_masks(4, samples=15, seed=0).is_exact and not target_masks(4, samples=14, seed=0).is_exact


def test_equal_rows_are_fed_once():
    """Four choices of one token after one question: one row. The same choice twice: no row more."""
    toy = wrong_denoiser()
    pairs = [([1, 2, 0], [choice]) for choice in (0, 1, 2, 1)]
    found = dict(LikelihoodEstimator(MASK, batch_size=2).many(toy, pairs))
    assert toy.fed == 1
    logs = toy(torch.tensor([[1, 2, 0, MASK]]), logits_at=torch.tensor([3])).logits.log_softmax(-1)[0]
    for index, (_, (choice,)) in enumerate(pairs):
        assert found[index].mean == pytest.approx(float(logs[choice]), abs=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1.5])
@pytest.mark.parametrize("enumerates", [True, False])
def test_a_pair_does_not_depend_on_its_neighbours(scale: float, enumerates: bool):
    model, pairs = tiny("llada", embedding_size=SIZE), drawn_pairs(12)
    settings = {"samples": 20, "guidance_scale": scale, "enumerates": enumerates}
    together = dict(LikelihoodEstimator(SIZE - 1, batch_size=7, **settings).many(model, pairs))
    assert sorted(together) == list(range(12))
    for index, (prompt, target) in enumerate(pairs):
        alone = LikelihoodEstimator(SIZE - 1, batch_size=64, **settings)(
            model, torch.tensor(prompt), torch.tensor(target, dtype=torch.long)
        )
        assert together[index].mean == pytest.approx(alone.mean, rel=1e-4, abs=1e-4)
        assert together[index].stderr == pytest.approx(alone.stderr, rel=1e-3, abs=1e-4)


def test_a_sum_of_rows_is_what_the_plain_function_gives():
    """The batched path against `masked_nll_sums`, which the reference's own masks and values were put through."""
    model = tiny("llada", embedding_size=SIZE)
    prompt, target = [1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11, 12]
    masks = target_masks(len(target), samples=16, seed=2)
    how = LikelihoodEstimator(SIZE - 1, samples=16, seed=2, corrects=False)
    ((_, found),) = how.many(model, [(prompt, target)])
    chosen_SL = torch.cat([torch.zeros(16, 3, dtype=torch.bool), masks.is_masked_Un[masks.mask_S]], dim=1)
    x0_SL = torch.tensor(prompt + target).expand(16, -1)
    with torch.no_grad():
        sums = masked_nll_sums(model, x0_SL.masked_fill(chosen_SL, SIZE - 1), x0_SL, chosen_SL)
    assert found.mean == pytest.approx(-float((sums * masks.share_S).sum()), rel=1e-5)


def block_bound(model: DiffusionModel, prompt: list[int], target: list[int], size: int, scale: float) -> float:
    """The mean over all orders inside each block, token by token, one stream, clean blocks before it."""
    ids, start, bound = torch.tensor(prompt + target), len(prompt), 0.0
    block_L = block_ids(torch.arange(len(ids))[None], size)[0]
    for block in block_L[start:].unique():
        end = int((block_L <= block).sum())
        free = [place for place in range(start, end) if block_L[place] == block]
        orders = []
        for order in itertools.permutations(free):
            row, nats = ids[:end].clone(), 0.0
            row[free] = SIZE - 1
            for place in order:
                logits = seen(model, row, block_L[:end])
                if scale:
                    bare = seen(model, row.index_fill(0, torch.arange(min(start, end)), SIZE - 1), block_L[:end])
                    logits = bare + (scale + 1) * (logits - bare)
                nats += float(logits[place].log_softmax(-1)[ids[place]])
                row[place] = ids[place]
            orders.append(nats)
        bound += sum(orders) / len(orders)
    return bound


@torch.no_grad()
def seen(model: DiffusionModel, row: Tensor, block_L: Tensor) -> Tensor:
    logits = model(row[None], attention=block_causal(block_L[None])).logits
    assert logits is not None
    return logits[0]


@pytest.mark.parametrize("scale", [0.0, 0.7])
def test_blocks_add_up_to_the_mean_over_orders_inside_each(scale: float):
    model = tiny("a2d-qwen3", attention="block_causal", block_size=3)
    pairs = [([1, 2, 3, 4], [5, 6, 7, 8, 9]), ([1, 2, 3], [4, 5, 6]), ([7], [8]), ([2, 2], []), ([9, 8], [7, 6, 5, 4])]
    how = LikelihoodEstimator(SIZE - 1, samples=7, batch_size=5, guidance_scale=scale)
    found = dict(BlockwiseEstimator(how, 3).many(model, pairs))
    assert sorted(found) == list(range(5))
    for index, (prompt, target) in enumerate(pairs):
        expected = block_bound(model, prompt, target, 3, scale)
        assert found[index].mean == pytest.approx(expected, abs=2e-4), (prompt, target)
        assert found[index].stderr == 0.0


def test_drawn_masks_of_blocks_agree_within_their_errors():
    model = tiny("a2d-qwen3", attention="block_causal", block_size=4)
    pair = [3, 1], [4, 1, 5, 9, 2, 6, 5, 3, 5]
    every = LikelihoodEstimator(SIZE - 1, samples=15)
    ((_, right),) = BlockwiseEstimator(every, 4).many(model, [pair])
    drawn = [
        next(BlockwiseEstimator(LikelihoodEstimator(SIZE - 1, 8, seed, enumerates=False), 4).many(model, [pair]))[1]
        for seed in range(40)
    ]
    means = torch.tensor([each.mean for each in drawn])
    claimed = sum(each.stderr for each in drawn) / len(drawn)
    assert abs(float(means.mean()) - right.mean) < 4 * float(means.std()) / len(drawn) ** 0.5
    assert 0.6 < claimed / float(means.std()) < 1.7


def test_a_block_as_long_as_the_row_is_masked_diffusion_and_of_one_token_autoregression():
    model, pair = tiny("a2d-qwen3"), ([3, 1], [4, 1, 5, 9])
    how = LikelihoodEstimator(SIZE - 1, samples=15)
    ((_, whole),) = how.many(model, [pair])
    ((_, block),) = BlockwiseEstimator(how, 6).many(model, [pair])
    assert block.mean == pytest.approx(whole.mean, rel=1e-5)
    ((_, single),) = BlockwiseEstimator(how, 1).many(model, [pair])
    ids, expected = torch.tensor([3, 1, 4, 1, 5, 9]), 0.0
    for place in range(2, 6):
        row = ids[: place + 1].index_fill(0, torch.tensor([place]), SIZE - 1)
        logits = seen(model, row, torch.arange(place + 1))
        expected += float(logits[place].log_softmax(-1)[ids[place]])
    assert single.mean == pytest.approx(expected, rel=1e-4)


def test_autoregressive_likelihoods_are_the_logits_own():
    model, pairs = tiny("qwen2"), [*drawn_pairs(9), ([1, 2, 3], [4, 5]), ([1, 2, 3], [4, 6]), ([1, 2, 3], [7])]
    found = dict(causal_log_likelihoods(model, pairs, batch_size=4))
    for index, (prompt, target) in enumerate(pairs):
        with torch.no_grad():
            logs = model(torch.tensor([prompt + target])).logits[0].log_softmax(-1)
        expected = sum(float(logs[len(prompt) - 1 + i, token]) for i, token in enumerate(target))
        assert found[index].mean == pytest.approx(expected, abs=1e-4)
        assert (found[index].stderr, found[index].samples) == (0.0, 1)
    with pytest.raises(ValueError, match="nothing predicts the first token"):
        list(causal_log_likelihoods(model, [([], [1])]))


@pytest.mark.parametrize("block_size", [None, 3])
def test_a_profile_divides_the_bound(block_size: int | None):
    """By positions it adds up to the bound; by time, one masked token of four is seen as in its own forward."""
    model, prompt, target = tiny("a2d-qwen3"), [1, 2, 3], [4, 5, 6, 7]
    how = LikelihoodEstimator(SIZE - 1, samples=15, profiled=True)
    estimator = how if block_size is None else BlockwiseEstimator(how, block_size)
    ((_, found),) = estimator.many(model, [(prompt, target)])
    assert found.profile is not None
    assert -float(found.profile.position_nats.sum()) == pytest.approx(found.mean, rel=1e-6)
    assert found.profile.position_tokens.tolist() == [1, 0, 1, 0, 0, 1, 0, 1, 0, 0]
    if block_size is None:
        ids, alone = torch.tensor(prompt + target), []
        for place in range(3, 7):
            row = ids.index_fill(0, torch.tensor([place]), SIZE - 1)
            with torch.no_grad():
                alone.append(-float(model(row[None]).logits[0, place].log_softmax(-1)[ids[place]]))
        seen_alone = found.profile.time_nats[2] / found.profile.time_tokens[2]  # 1 of 4: in (0.2, 0.3]
        assert float(seen_alone) == pytest.approx(sum(alone) / 4, rel=1e-4)
        assert found.profile.time_tokens.nonzero().flatten().tolist() == [2, 4, 7, 9]


def test_a_profile_of_drawn_masks_tends_to_that_of_all():
    model, pair = tiny("a2d-qwen3"), ([1, 2], [4, 5, 6, 7, 8])
    ((_, right),) = LikelihoodEstimator(SIZE - 1, samples=31, profiled=True).many(model, [pair])
    drawn = LikelihoodEstimator(SIZE - 1, samples=4000, enumerates=False, profiled=True)
    ((_, found),) = drawn.many(model, [pair])
    assert right.profile and found.profile
    torch.testing.assert_close(found.profile.position_nats, right.profile.position_nats, rtol=0.05, atol=0.05)
    means = [p.time_nats / p.time_tokens for p in (found.profile, right.profile)]
    torch.testing.assert_close(*means, rtol=0.05, atol=0.05, equal_nan=True)


def test_targets_with_masks_of_their_own_have_independent_errors():
    model, pair = tiny("a2d-qwen3"), ([1, 2], [4, 5, 6, 7, 8])
    for own in (False, True):
        how = LikelihoodEstimator(SIZE - 1, samples=4, enumerates=False, own_masks=own)
        means = {estimate.mean for _, estimate in how.many(model, [pair] * 4)}
        assert len(means) == (4 if own else 1)


def test_an_autoregressive_profile_has_positions_only():
    ((_, found),) = causal_log_likelihoods(tiny("qwen2"), [([1], [2, 3, 4])], profiled=True)
    assert found.profile and float(found.profile.time_tokens.sum()) == 0
    assert -float(found.profile.position_nats.sum()) == pytest.approx(found.mean)
