"""Next-token loss against transformers' own, and against each row or document alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.models.tiny import build
from unmask.data.collate import Collator, Visit
from unmask.models.checkpoints import load_model
from unmask.models.shell import DiffusionModel
from unmask.objectives.autoregressive import Autoregressive
from unmask.registry import FAMILIES
from unmask.types import Batch, DenoiserOutput

LENGTHS = [9, 14, 5]


def batch_of(lengths: list[int], *, prompt: int = 2, packing: bool = False, padding: str = "none") -> Batch:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index, length in enumerate(lengths):
        ids = torch.randint(0, 60, (length,), generator=generator).tolist()
        record = {"input_ids": ids, "may_noise": [position >= prompt for position in range(length)]}
        rows.append((Visit(index, index, 0, length, max(lengths), bin=0 if packing else None), record))
    return Collator(eos_token_id=61, pad_token_id=62, padding=padding)(rows)  # type: ignore[arg-type]


def packed_documents() -> Batch:
    """One sample of three documents, as pretraining packs them; everything is learned."""
    ids = torch.randint(0, 60, (12,), generator=torch.Generator().manual_seed(1)).tolist()
    record = {"input_ids": ids, "document": [0] * 4 + [1] * 1 + [2] * 7}
    return Collator(eos_token_id=61, pad_token_id=62, padding="none")([(Visit(0, 0, 0, 12, 12), record)])


@pytest.fixture
def model(tmp_path: Path) -> DiffusionModel:
    return build(tmp_path, FAMILIES.get("qwen2"))


def alone(batch: Batch, model: DiffusionModel) -> list[torch.Tensor]:
    """Per row, the cross-entropies of its learned tokens, computed from that row without its padding."""
    found = []
    for row, ids in enumerate(batch.x0_BL):
        length = int((batch.sample_BL[row] >= 0).sum())
        logits_LV = model(ids[None, :length]).logits[0]
        nll_L = F.cross_entropy(logits_LV[:-1], ids[1:length], reduction="none")
        found.append(nll_L[batch.may_noise_BL[row, 1:length]])
    return found


@pytest.mark.parametrize("normalization", ["token", "sequence", "batch"])
def test_the_loss_is_each_rows_own_with_its_own_gradient(model: DiffusionModel, normalization: str) -> None:
    batch, objective = batch_of(LENGTHS), Autoregressive(normalization)  # type: ignore[arg-type]
    sums = objective(model, batch, objective.noise(batch))
    sums.loss.backward()
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()

    rows = alone(batch, model)
    total = sum((row.mean() if normalization == "sequence" else row.sum() for row in rows), torch.zeros(()))
    total.backward()
    assert sums.loss.item() == pytest.approx(total.item(), rel=1e-5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(ours[name], weight.grad, atol=1e-5, rtol=1e-4)
    nll, count = sums.metrics["nll"]
    assert count == 7 + 12 + 3 and nll.item() == pytest.approx(torch.cat(rows).sum().item(), rel=1e-5)


def test_the_mean_equals_transformers_loss(tmp_path: Path) -> None:
    size = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    theirs = Qwen2ForCausalLM(Qwen2Config(vocab_size=64, num_hidden_layers=2, max_position_embeddings=64, **size))
    theirs.save_pretrained(tmp_path)
    batch, objective = batch_of(LENGTHS), Autoregressive()
    labels_BL = batch.x0_BL.where(batch.may_noise_BL, -100)
    real_BL = (batch.sample_BL >= 0).long()
    wanted = theirs.eval()(batch.x0_BL, attention_mask=real_BL, labels=labels_BL).loss.item()
    found = objective(load_model(tmp_path), batch, objective.noise(batch)).loss.item()
    assert found / objective.count(batch) == pytest.approx(wanted, rel=1e-5)


def test_counts() -> None:
    batch = batch_of([9, 14, 2])
    assert Autoregressive("token").count(batch) == 7 + 12
    # the third row is all prompt
    assert Autoregressive("sequence").count(batch) == Autoregressive("batch").count(batch) == 2
    # nothing comes before a text's first token, so nobody can predict it
    assert Autoregressive("token").count(batch_of([9, 14], prompt=0)) == 8 + 13
    assert Autoregressive("token").count(packed_documents()) == 3 + 0 + 6
    # learned padding is learned here too
    assert Autoregressive("token").count(batch_of([9, 14], padding="eos")) == 12 + 12


def test_packed_conversations_equal_padded_ones(model: DiffusionModel) -> None:
    objective = Autoregressive("sequence")
    losses = []
    for packing in (False, True):
        batch = batch_of(LENGTHS, packing=packing)
        losses.append(objective(model, batch, objective.noise(batch)).loss.item())
        assert objective.count(batch) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_packed_documents_do_not_see_each_other(model: DiffusionModel) -> None:
    batch, objective = packed_documents(), Autoregressive()
    found = objective(model, batch, objective.noise(batch)).loss.item()
    total = 0.0
    for ids in batch.x0_BL[0].split([4, 1, 7]):
        logits_LV = model(ids[None]).logits[0]
        total += F.cross_entropy(logits_LV[:-1], ids[1:], reduction="sum").item()
    assert found == pytest.approx(total, rel=1e-5)


def test_no_mask_is_made_where_padding_is_at_the_end() -> None:
    """And one is where it is not."""
    seen = []

    def network(tokens_BL: torch.Tensor, **given: object) -> DenoiserOutput:
        seen.append(given["attention"])
        return DenoiserOutput(nll=torch.zeros_like(given["targets"], dtype=torch.float32))  # type: ignore[arg-type]

    objective, batch = Autoregressive(), batch_of(LENGTHS)
    objective(network, batch, objective.noise(batch))
    shifted = Batch(batch.x0_BL.flip(1), batch.may_noise_BL, batch.sample_BL.flip(1), batch.keys, batch.attention)
    objective(network, shifted, objective.noise(shifted))
    assert [spec.kind for spec in seen] == ["causal", "causal"]
    assert seen[0].document_BL is None and seen[1].document_BL is not None


def test_one_row_of_eight_equals_eight_rows_of_one(model: DiffusionModel) -> None:
    lengths, objective = [9, 14, 5, 7, 3, 12, 8, 10], Autoregressive("sequence")
    whole = batch_of(lengths)
    together = objective(model, whole, objective.noise(whole)).loss.item()
    apart = 0.0
    for row in range(8):
        one = Batch(
            whole.x0_BL[row : row + 1],
            whole.may_noise_BL[row : row + 1],
            (whole.sample_BL[row : row + 1] >= 0).long() - 1,
            whole.keys,
        )
        apart += objective(model, one, objective.noise(one)).loss.item()
    assert together == pytest.approx(apart, rel=1e-5)
