"""The objective against hand-written sums, and the head run at noised positions against the head run everywhere."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from unmask.data.collate import Collator, Visit
from unmask.diffusion.schedules import Cosine
from unmask.models.dense import initialise
from unmask.models.facts import facts_of
from unmask.models.families.llada import FAMILY
from unmask.models.shell import DiffusionModel
from unmask.objectives.masked import MaskedDiffusion
from unmask.types import Batch, DenoiserOutput

MASK = 63


def batch_of(lengths: list[int], prompt: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index, length in enumerate(lengths):
        ids = torch.randint(0, 60, (length,), generator=generator).tolist()
        record = {"input_ids": ids, "may_noise": [position >= prompt for position in range(length)]}
        rows.append((Visit(index, index, 0, length, max(lengths)), record))
    return Collator(eos_token_id=61, pad_token_id=62, padding="none")(rows)


def tiny() -> DiffusionModel:
    model = DiffusionModel(facts_of(FAMILY.tiny_config))
    initialise(model.trunk, model.head, torch.Generator().manual_seed(0))
    return model


def test_the_loss_is_the_sum_written_out_over_full_logits() -> None:
    """Values and gradients of the head at noised positions equal those of the head at all positions."""
    batch, objective, model = batch_of([9, 14, 5]), MaskedDiffusion(MASK, normalization="sequence", seed=4), tiny()
    t_S = torch.tensor([0.9, 0.5, 0.7])
    masked_BL = torch.rand(batch.x0_BL.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    masked_BL &= batch.may_noise_BL
    sums = objective(model, batch, objective.noise_at(batch, t_S, masked_BL))
    sums.loss.backward()
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()

    xt_BL = torch.where(masked_BL, MASK, batch.x0_BL)
    logits_BLV = model(xt_BL, attention=batch.attention).logits
    total = torch.zeros(())
    for row in range(3):
        nll_L = F.cross_entropy(logits_BLV[row], batch.x0_BL[row], reduction="none")
        total = total + (nll_L * masked_BL[row]).sum() / t_S[row] / batch.may_noise_BL[row].sum()
    total.backward()
    assert sums.loss.item() == pytest.approx(total.item(), rel=1e-5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(ours[name], weight.grad, atol=1e-5, rtol=1e-4)


def test_counts() -> None:
    batch = batch_of([9, 14, 2])
    assert MaskedDiffusion(MASK, normalization="token").count(batch) == 7 + 12
    # the third row is all prompt: nothing of it is learned
    assert MaskedDiffusion(MASK, normalization="sequence").count(batch) == 2
    assert MaskedDiffusion(MASK, normalization="batch").count(batch) == 2


def test_only_noisable_tokens_are_masked_and_the_rest_is_given() -> None:
    batch, objective = batch_of([20, 30, 25]), MaskedDiffusion(MASK, seed=1)
    noise = objective.noise(batch)
    changed_BL = noise.xt_BL != batch.x0_BL
    assert changed_BL.any()
    assert not (changed_BL & ~batch.may_noise_BL).any()
    assert (noise.xt_BL[changed_BL] == MASK).all()
    assert noise.targets.equal(batch.x0_BL.flatten()[noise.masked_at])


def test_noise_is_a_function_of_the_sample_not_of_its_batch() -> None:
    whole, objective = batch_of([20, 30, 25]), MaskedDiffusion(MASK, seed=1)
    noise = objective.noise(whole)
    row = {"input_ids": whole.x0_BL[1], "may_noise": whole.may_noise_BL[1]}
    alone = Collator(eos_token_id=61, pad_token_id=62, padding="none")([(Visit(1, 1, 0, 30, 30), row)])
    assert objective.noise(alone).xt_BL[0].equal(noise.xt_BL[1])


def test_a_batch_without_a_masked_token_gives_zero_and_a_gradient_of_zeros() -> None:
    batch, objective, model = batch_of([5, 6]), MaskedDiffusion(MASK), tiny()
    nothing = torch.zeros_like(batch.may_noise_BL)
    sums = objective(model, batch, objective.noise_at(batch, torch.tensor([0.1, 0.1]), nothing))
    sums.loss.backward()
    assert sums.loss.item() == 0.0
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())
    assert model.head.weight.grad is not None


@pytest.mark.parametrize("schedule", ["linear", "cosine", "maskgit_cosine", "polynomial"])
def test_a_denoiser_that_knows_nothing_pays_the_uniform_bound(schedule: str) -> None:
    """With uniform predictions over V ids the bound is log V nats per token, whatever the schedule."""
    from unmask.registry import NOISE_SCHEDULES

    def ignorant(tokens_BL: torch.Tensor, *, targets: torch.Tensor, **_: object) -> DenoiserOutput:
        return DenoiserOutput(nll=torch.full(targets.shape, math.log(50.0)))

    objective = MaskedDiffusion(MASK, schedule=NOISE_SCHEDULES.get(schedule)())
    total = count = 0.0
    for start in range(0, 4000, 8):
        rows = []
        for index in range(start, start + 8):
            record = {"input_ids": [1] * 64, "may_noise": [True] * 64}
            rows.append((Visit(index, index, 0, 64, 64), record))
        batch = Collator(eos_token_id=61, pad_token_id=62)(rows)
        nll, tokens = objective(ignorant, batch, objective.noise(batch)).metrics["nll"]
        total, count = total + float(nll), count + float(tokens)
    assert total / count == pytest.approx(math.log(50.0), rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize(
    "how",
    [
        {"masking": "exact_count"},
        {"masking": "exact_count", "schedule": "cosine"},
        {"masking": "exact_count", "complementary": True},
        {"masking": "exact_count", "complementary": True, "schedule": "polynomial"},
        {"complementary": True, "time_epsilon": 1e-6},
        {"views": 3, "time_epsilon": 1e-6},
        {"copies": 1},
        {"copies": 4, "schedule": "cosine"},
        {"copies": 3, "masking": "bernoulli", "complementary": True, "time_low": 0.4},
    ],
)
def test_the_loss_is_unbiased_whatever_the_noise(how: dict) -> None:
    """The mean over many draws against the sum over all masks of four tokens, each count as likely."""
    from unmask.registry import NOISE_SCHEDULES

    if "schedule" in how:
        how = {**how, "schedule": NOISE_SCHEDULES.get(how["schedule"])()}
    one, model, objective = batch_of([5], prompt=1), tiny(), MaskedDiffusion(MASK, **how)
    exact = 0.0
    for count in range(1, 5):
        chosen = list(itertools.combinations(range(1, 5), count))
        for places in chosen:
            masked_BL = torch.zeros(1, 5, dtype=torch.bool)
            masked_BL[0, list(places)] = True
            noise = objective.noise_at(one, torch.ones(1), masked_BL)
            exact += float(objective(model, one, noise).metrics["unscaled_loss"][0]) / count / len(chosen)
    record = {"input_ids": one.x0_BL[0].tolist(), "may_noise": one.may_noise_BL[0].tolist()}
    copies = max(1, objective.copies)
    visits = [Visit(i, i // copies, i % copies, 5, 5) for i in range(2048 // copies * copies)]
    many = Collator(eos_token_id=61, pad_token_id=62)([(visit, record) for visit in visits])
    drawn_S = objective(model, many, objective.noise(many)).nll_S.view(-1, copies).mean(1)
    error = float(drawn_S.std()) / len(drawn_S) ** 0.5
    assert float(drawn_S.mean()) == pytest.approx(exact, abs=4 * error) and error < 0.05 * exact


def test_complementary_masks_learn_each_token_once_and_views_are_rows_of_their_own() -> None:
    batch = batch_of([20, 14])
    for masking in ("bernoulli", "exact_count"):
        noise = MaskedDiffusion(MASK, masking=masking, complementary=True).noise(batch)
        assert noise.xt_BL.shape == (4, 20) and noise.attention.document_BL.shape == (4, 20)
        assert ((noise.xt_BL[:2] == MASK) ^ (noise.xt_BL[2:] == MASK)).equal(batch.may_noise_BL)
        assert sorted(noise.targets.tolist()) == sorted(batch.x0_BL[batch.may_noise_BL].tolist())
    views = MaskedDiffusion(MASK, views=2).noise(batch)
    assert not views.xt_BL[:2].equal(views.xt_BL[2:])
    assert (views.xt_BL == MASK).flatten().nonzero().squeeze(1).equal(views.masked_at)


def test_exact_counts_cover_all_levels_evenly() -> None:
    rows = [(Visit(i, i, 0, 8, 8), {"input_ids": [1] * 8, "may_noise": [True] * 8}) for i in range(800)]
    batch = Collator(eos_token_id=61, pad_token_id=62)(rows)
    noise = MaskedDiffusion(MASK, masking="exact_count").noise(batch)
    counts = torch.bincount((noise.xt_BL == MASK).sum(1), minlength=9)
    assert counts[0] == 0 and (counts[1:] - 100).abs().max() <= 3
    weight = noise.loss_weight.split((noise.xt_BL == MASK).sum(1).tolist())
    assert all(each.sum().item() == pytest.approx(8.0) for each in weight)


@pytest.mark.parametrize("copies", [1, 3, 8])
def test_the_copies_of_a_row_mask_its_tokens_end_to_end(copies: int) -> None:
    """And do so packed, alone, and whatever the run has visited."""
    objective, lengths = MaskedDiffusion(MASK, copies=copies, seed=6), {3: 30, 4: 17, 9: 5, 11: 2}

    def noised(wanted: list[tuple[int, int]], **more: int) -> dict[tuple[int, int], list[bool]]:
        rows = []
        for number, (row, copy) in enumerate(wanted):
            record = {"input_ids": [1] * lengths[row], "may_noise": [place > 1 for place in range(lengths[row])]}
            rows.append((Visit(number, row, copy, lengths[row], lengths[row], **more), record))
        batch = Collator(eos_token_id=61, pad_token_id=62, padding="none")(rows)
        masked_BL = objective.noise(batch).xt_BL == MASK
        return {key: masked_BL[batch.sample_BL == index].tolist() for index, key in enumerate(wanted)}

    keys = [(row, copy) for row in lengths for copy in range(copies)]
    together = noised(keys)
    assert noised(keys[::-1], bin=0) == together
    assert {key: mask for key in keys for mask in noised([key]).values()} == together
    for row, length in lengths.items():
        masked = torch.tensor([together[row, copy] for copy in range(copies)])
        assert not masked[:, :2].any() and masked.shape[1] == length
        if length == 2:
            continue
        counts, times = masked.sum(1), masked.sum(0)[2:]
        assert (counts.diff() >= 0).all() and counts[0] > 0
        # all but the last fill the circle again and again; the last is one more
        assert times.max() - times.min() <= 2
        assert copies == 1 or counts[[0, -1]].sum() > length - 2 or not (masked[0] & masked[-1]).any()


@torch.no_grad()
@pytest.mark.parametrize("copies", [0, 5])
def test_other_weights_mean_the_same_whatever_counts_are_drawn(copies: int) -> None:
    """A token costs the share that is masked. Of n tokens, k are while the cosine is between 1 - k / n and the next."""

    def denoiser(tokens_BL, *, logits_at, **_) -> DenoiserOutput:
        return DenoiserOutput(nll=(tokens_BL == MASK).float().mean(1)[logits_at // 6])

    objective = MaskedDiffusion(
        MASK, schedule=Cosine(), masking="exact_count", loss_weight="uniform", copies=copies, normalization="batch"
    )
    rows = [
        (Visit(i, i // max(1, copies), i % max(1, copies), 6, 6), {"input_ids": [1] * 6, "may_noise": [True] * 6})
        for i in range(3000)
    ]
    batch = Collator(eos_token_id=61, pad_token_id=62)(rows)
    sums = objective(denoiser, batch, objective.noise(batch))
    times = [math.acos(1 - k / 6) * 2 / math.pi for k in range(7)]
    chance = [after - before for before, after in itertools.pairwise(times)]
    expected = sum(p * k * k / 6 for k, p in enumerate(chance, 1))
    assert float(sums.loss) / 3000 == pytest.approx(expected, rel=5e-3)
    total, count = sums.metrics["unscaled_loss"]
    assert float(total / count) == pytest.approx(expected / sum(p * k for k, p in enumerate(chance, 1)), rel=5e-3)


def test_clipped_times_bound_the_share_that_is_masked() -> None:
    rows = [(Visit(i, i, 0, 500, 500), {"input_ids": [1] * 500, "may_noise": [True] * 500}) for i in range(60)]
    batch = Collator(eos_token_id=61, pad_token_id=62)(rows)
    noise = MaskedDiffusion(MASK, time_low=0.3, time_high=0.8, masking="exact_count").noise(batch)
    share = (noise.xt_BL == MASK).float().mean(1)
    assert 0.3 <= share.min() < 0.33 and 0.77 < share.max() <= 0.802


def test_loss_weights() -> None:
    batch = batch_of([12, 12])
    masked_BL = batch.may_noise_BL.clone()
    masked_BL[:, 5] = False
    t_S = torch.tensor([0.25, 0.5])
    elbo = MaskedDiffusion(MASK).noise_at(batch, t_S, masked_BL)
    assert elbo.loss_weight.tolist() == [4.0] * 9 + [2.0] * 9
    uniform = MaskedDiffusion(MASK, loss_weight="uniform").noise_at(batch, t_S, masked_BL)
    assert uniform.loss_weight.tolist() == [1.0] * 18
    assert uniform.elbo_weight.equal(elbo.elbo_weight)
    cart = MaskedDiffusion(MASK, loss_weight="cart", cart_p=0.3).noise_at(batch, t_S, masked_BL)
    # masked tokens at 2, 3, 4, 6, 7, ...: the prompt stands before 2, the one given answer token at 5
    at_2, _, at_4, at_6, at_7, *_ = cart.loss_weight[:9].tolist()
    assert at_2 > at_4 > at_6 > at_7
