"""Block diffusion against what it equals: every mask written out, the chain rule, next-token prediction, `masked`."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from tests.models.tiny import build
from unmask.data.collate import Collator, Visit
from unmask.diffusion.blocks import block_causal, causal
from unmask.errors import ConfigError
from unmask.models.shell import DiffusionModel
from unmask.objectives.autoregressive import Autoregressive
from unmask.objectives.block import BlockDiffusion
from unmask.objectives.masked import MaskedDiffusion, MaskedNoise
from unmask.registry import FAMILIES, NOISE_SCHEDULES
from unmask.types import Batch, LossSums, SampleKeys

MASK = 63
LENGTHS = [9, 14, 5]
# what Dream's configuration has in common with Qwen2's
SHAPE = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings", "max_position_embeddings",
)  # fmt: skip


def batch_of(lengths: list[int], *, prompt: int = 2, packing: bool = False, first: int = 0) -> Batch:
    """Rows numbered from `first`, each of ids that its number decides, and of the update of that number."""
    rows = []
    for index, length in enumerate(lengths, first):
        ids = torch.randint(0, 60, (length,), generator=torch.Generator().manual_seed(index)).tolist()
        record = {"input_ids": ids, "may_noise": [position >= prompt for position in range(length)]}
        bin_ = 0 if packing else None
        rows.append((Visit(index, index, 0, length, max(lengths), bin=bin_, update=index), record))
    return Collator(eos_token_id=61, pad_token_id=62, padding="none")(rows)


def packed_documents(sizes: list[int]) -> Batch:
    """One sample of several documents, as pretraining packs them; everything is learned."""
    length = sum(sizes)
    ids = torch.randint(0, 60, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    document = [number for number, size in enumerate(sizes) for _ in range(size)]
    record = {"input_ids": ids, "document": document}
    return Collator(eos_token_id=61, pad_token_id=62, padding="none")([(Visit(0, 0, 0, length, length), record)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    return build(tmp_path_factory.mktemp("llada"))


def learned(objective: MaskedDiffusion | Autoregressive, model: DiffusionModel, batch: Batch, noise=None):
    """The loss and every gradient."""
    model.zero_grad()
    sums: LossSums = objective(model, batch, objective.noise(batch) if noise is None else noise)
    sums.loss.backward()
    return sums.loss.item(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


def assert_same(one, other) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5) and one[0] > 0
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("masking", ["bernoulli", "exact_count"])
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("normalization", ["token", "sequence"])
def test_one_block_as_long_as_the_row_is_masked_diffusion(model, masking: str, packing: bool, normalization: str):
    batch, how = batch_of(LENGTHS, packing=packing), {"masking": masking, "normalization": normalization, "seed": 4}
    block, masked = BlockDiffusion(MASK, block_size=16, **how), MaskedDiffusion(MASK, **how)
    noise = block.noise(batch)
    assert noise.xt_BL.numel() == batch.x0_BL.numel(), "a clean stream that nobody sees is not fed"
    assert_same(learned(block, model, batch), learned(masked, model, batch))
    assert block.count(batch) == masked.count(batch)


def test_blocks_of_one_token_are_next_token_prediction(tmp_path: Path):
    """In a shifted checkpoint the row before a token predicts it, as in the autoregressive one of the same weights."""
    qwen = FAMILIES.get("qwen2")
    teacher = build(tmp_path / "qwen", qwen)
    config = {**FAMILIES.get("dream").tiny_config, **{k: v for k, v in qwen.tiny_config.items() if k in SHAPE}}
    student = build(tmp_path / "dream", FAMILIES.get("dream"), **config)
    student.load_state_dict(teacher.state_dict())
    batch = batch_of(LENGTHS)
    block, next_token = BlockDiffusion(MASK, block_size=1, halves=True), Autoregressive()
    assert block.count(batch) == next_token.count(batch)
    assert_same(learned(block, student, batch), learned(next_token, teacher, batch))


@torch.no_grad()
@pytest.mark.parametrize("complementary", [False, True])
def test_blocks_of_one_token_give_the_exact_likelihood(model, complementary: bool):
    """A mask after a clean prefix that never sees it, token after token: the chain rule, without a sample drawn."""
    batch = batch_of(LENGTHS, prompt=0)
    objective = BlockDiffusion(MASK, block_size=1, complementary=complementary)
    found = objective(model, batch, objective.noise(batch))
    total = torch.zeros(3)
    for row, length in enumerate(LENGTHS):
        for at in range(length):
            tokens_BL = batch.x0_BL[row : row + 1, : at + 1].clone()
            target, tokens_BL[0, at] = int(tokens_BL[0, at]), MASK
            logits = model(tokens_BL, attention=causal()).logits[0, at]
            total[row] -= logits.log_softmax(-1)[target]
    torch.testing.assert_close(found.loss, total.sum(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.nll_S, total, rtol=1e-5, atol=1e-4)


def written_out(model: DiffusionModel, noise: MaskedNoise, size: int) -> torch.Tensor:
    """The loss with each block alone in a row of its own behind its clean prefix, the clean tokens block-causal."""
    total, fed = torch.zeros(()), noise.xt_BL.shape[1]
    assert noise.attention is not None and noise.attention.stream_BL is not None
    for at, target, weight in zip(noise.masked_at.tolist(), noise.targets, noise.loss_weight, strict=True):
        row, column = divmod(at, fed)
        block, stream = int(noise.attention.block_BL[row, column]), int(noise.attention.stream_BL[row, column])
        own_L = (noise.attention.block_BL[row] == block) & (noise.attention.stream_BL[row] == stream)
        if noise.attention.document_BL is not None:
            own_L &= noise.attention.document_BL[row] == noise.attention.document_BL[row, column]
        prefix_L = clean_prefix(noise, row, column)
        tokens_BL = torch.cat([prefix_L, noise.xt_BL[row, own_L]])[None]
        block_BL = torch.arange(tokens_BL.shape[1])[None] // size
        logits_LV = model(tokens_BL, attention=block_causal(block_BL)).logits[0]
        place = len(prefix_L) + int(noise.positions_BL[row, column]) % size
        total = total - weight * logits_LV[place].log_softmax(-1)[target]
    return total


def clean_prefix(noise: MaskedNoise, row: int, column: int) -> torch.Tensor:
    """The clean tokens before a fed token's block in its document."""
    spec = noise.attention
    assert spec is not None and spec.block_BL is not None and spec.stream_BL is not None
    wanted_L = (spec.stream_BL[row] == 1) & (spec.block_BL[row] < spec.block_BL[row, column])
    if spec.document_BL is not None:
        wanted_L &= spec.document_BL[row] == spec.document_BL[row, column]
    return noise.xt_BL[row, wanted_L]


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("views, complementary", [(1, False), (2, False), (1, True)])
@pytest.mark.parametrize("documents", [False, True])
def test_the_loss_is_that_of_each_block_behind_its_clean_prefix(
    model, size: int, views: int, complementary: bool, documents: bool
):
    batch = packed_documents([7, 1, 6]) if documents else batch_of([9, 5], prompt=2)
    objective = BlockDiffusion(MASK, block_size=size, views=views, complementary=complementary, seed=1)
    noise = objective.noise(batch)
    ours = learned(objective, model, batch, noise)
    model.zero_grad()
    written_out(model, noise, size).backward()
    assert ours[0] == pytest.approx(written_out(model, noise, size).item(), rel=1e-5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(ours[1][name], weight.grad, atol=3e-4, rtol=1e-4)


def test_what_is_fed_clean_is_the_row_itself():
    batch = batch_of([9], prompt=5)
    noise = BlockDiffusion(MASK, block_size=2).noise(batch)
    # blocks 01 23 hold prompt only; 45 begins with the prompt's last token; 8 is the last block, which nobody sees
    assert noise.positions_BL.tolist() == [[4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7]]
    assert noise.attention.stream_BL.tolist() == [[0] * 5 + [1] * 8]
    assert noise.attention.block_BL.tolist() == [[2, 2, 3, 3, 4, 0, 0, 1, 1, 2, 2, 3, 3]]
    assert noise.xt_BL[0, 5:].equal(batch.x0_BL[0, :8]) and noise.xt_BL[0, 0] == batch.x0_BL[0, 4]
    assert (noise.masked_at >= 1).all() and (noise.masked_at < 5).all()
    assert noise.targets.equal(batch.x0_BL[0, 4:][noise.masked_at])


def test_views_share_the_clean_stream_and_complements_mask_the_rest():
    batch = batch_of([12], prompt=0)
    pair = BlockDiffusion(MASK, block_size=4, complementary=True).noise(batch)
    first, second, clean = pair.xt_BL[0].split([12, 12, 8])
    assert clean.equal(batch.x0_BL[0, :8])
    assert ((first == MASK) ^ (second == MASK)).all()
    assert pair.masked_at.sort().values.numel() == 12, "each token has one loss"
    views = BlockDiffusion(MASK, block_size=4, views=3).noise(batch)
    assert views.xt_BL.shape[1] == 3 * 12 + 8 and views.attention.stream_BL[0].unique().tolist() == [0, 1, 2, 3]


@torch.no_grad()
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"masking": "bernoulli", "time_epsilon": 1e-6},
        {"complementary": True},
        {"masking": "bernoulli", "complementary": True, "time_epsilon": 1e-6},
        {"views": 2, "schedule": "cosine"},
        {"copies": 1},
        {"copies": 3, "schedule": "cosine", "masking": "bernoulli", "views": 2},
    ],
)
def test_the_loss_is_unbiased_whatever_the_noise(model, how: dict):
    """The mean over many draws against the sum over all masks of each block of three."""
    if "schedule" in how:
        how = {**how, "schedule": NOISE_SCHEDULES.get(how["schedule"])()}
    one, objective = batch_of([6], prompt=1), BlockDiffusion(MASK, block_size=3, **how)
    exact = 0.0
    for block in (range(1, 3), range(3, 6)):
        for count in range(1, len(block) + 1):
            chosen = list(itertools.combinations(block, count))
            for mask in chosen:
                is_masked_BL = torch.zeros(1, 6, dtype=torch.bool)
                is_masked_BL[0, list(mask)] = True
                noise = objective.noise_at(one, torch.ones(1), is_masked_BL)
                exact += float(objective(model, one, noise).metrics["unscaled_loss"][0]) / count / len(chosen)
    rows = 2048
    record = {"input_ids": one.x0_BL[0].tolist(), "may_noise": one.may_noise_BL[0].tolist()}
    copies = max(1, objective.copies)
    visits = [Visit(i, i // copies, i % copies, 6, 6) for i in range(rows // copies * copies)]
    many = Collator(61, 62, "none")([(visit, record) for visit in visits])
    drawn_S = objective(model, many, objective.noise(many)).nll_S.view(-1, copies).mean(1)
    error = float(drawn_S.std()) / len(drawn_S) ** 0.5
    assert float(drawn_S.mean()) == pytest.approx(exact, abs=4 * error) and error < 0.05 * exact


@pytest.mark.parametrize("complementary", [False, True])
@pytest.mark.parametrize("normalization", ["token", "sequence"])
def test_rows_together_apart_and_packed_learn_the_same(model, complementary: bool, normalization: str):
    lengths = [9, 14, 5, 7]
    objective = BlockDiffusion(MASK, block_size=4, complementary=complementary, normalization=normalization, seed=2)
    together = learned(objective, model, batch_of(lengths))
    assert_same(learned(objective, model, batch_of(lengths, packing=True)), together)
    apart = [learned(objective, model, batch_of([length], first=row)) for row, length in enumerate(lengths)]
    summed = {name: sum(gradients[name] for _, gradients in apart) for name in together[1]}
    assert_same((sum(loss for loss, _ in apart), summed), together)
    assert sum(objective.count(batch_of([length], first=row)) for row, length in enumerate(lengths)) == objective.count(
        batch_of(lengths)
    )


@pytest.mark.parametrize("family", ["dream", "llada2", "a2d-qwen3"])
def test_it_trains_every_kind_of_family(tmp_path: Path, family: str):
    network = build(tmp_path, FAMILIES.get(family))
    batch = batch_of(LENGTHS)
    objective = BlockDiffusion(MASK, block_size=4, halves=network.family.shift)
    loss, gradients = learned(objective, network, batch)
    assert loss > 0 and all(torch.isfinite(gradient).all() for gradient in gradients.values())


def test_nothing_to_learn_costs_nothing(model):
    batch = batch_of([3, 2], prompt=9)
    objective = BlockDiffusion(MASK, block_size=4)
    loss = objective(model, batch, objective.noise(batch)).loss
    loss.backward()
    assert loss.item() == 0.0 and objective.count(batch) == 0


def test_a_curriculum_decides_the_size_by_the_update():
    objective = BlockDiffusion(MASK, block_size=32, curriculum=((1, 2), (4, 1)))
    some = torch.arange(5)
    keys = SampleKeys(some, some, some, update_S=torch.tensor([0, 1, 2, 3, 10**6]))
    assert objective.sizes(keys).tolist() == [1, 1, 4, 32, 32]
    batch = batch_of([12, 12], prompt=0, first=1)
    blocks = objective.groups(batch)
    assert blocks.block_BL.tolist() == [list(range(12)), [0] * 4 + [1] * 4 + [2] * 4]


def test_what_has_no_meaning_is_refused():
    with pytest.raises(ConfigError, match="loss_weight cart.*Use elbo or uniform"):
        BlockDiffusion(MASK, loss_weight="cart")
    with pytest.raises(ConfigError, match="predictions are shifted"):
        BlockDiffusion(MASK, halves=True, views=2)
    with pytest.raises(ConfigError, match="at least 1 token"):
        BlockDiffusion(MASK, curriculum=((0, 5),))
