"""What eases a converted model's first updates acts while it trains, as long as asked; a restart changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from unmask.errors import ConfigError
from unmask.models.attention import prepare_attention
from unmask.models.checkpoints import load_model
from unmask.models.shell import DiffusionModel
from unmask.training.arguments import Settings
from unmask.training.easing import NoisyMask, OpeningAttention
from unmask.training.run import train
from unmask.types import AttentionSpec

Make = Callable[..., Settings]
IDS = torch.randint(6, 260, (2, 24), generator=torch.Generator().manual_seed(0))
MASK = 0


@pytest.fixture
def model(checkpoint: Path) -> DiffusionModel:
    return load_model(checkpoint)


def at(callback: Any, step: int) -> None:
    callback.on_step_begin(None, SimpleNamespace(global_step=step), None)


def pattern(share: float, seed: int = 0, length: int = 200) -> torch.Tensor:
    spec = AttentionSpec(kind="causal", ahead=share, ahead_seed=seed)
    mask = prepare_attention(spec, start=0, queries=length, keys=length, device=torch.device("cpu")).mask
    assert mask is not None
    return mask[0, 0]


# attention


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("seed", [0, 1, 2**40 + 7])
def test_the_past_is_always_seen_and_so_much_of_the_future(share: float, seed: int) -> None:
    seen = pattern(share, seed)
    past = torch.ones(200, 200, dtype=torch.bool).tril()
    assert seen[past].all()
    # 19,900 pairs: four standard deviations
    assert float(seen[~past].float().mean()) == pytest.approx(share, abs=4 * (share * (1 - share) / 19_900) ** 0.5)
    # no row and no column is favoured, and neighbours tell nothing about each other
    rows = (seen & ~past)[:100].float().sum(1) / (~past)[:100].float().sum(1)
    assert rows.std() < 1.5 * (share * (1 - share) / 100) ** 0.5
    pairs = seen[:99, 101:].float()
    together = torch.corrcoef(torch.stack([pairs[:, 1:].flatten(), pairs[:, :-1].flatten()]))[0, 1]
    assert abs(float(together)) < 0.05


def test_every_update_draws_anew() -> None:
    first, second = pattern(0.5, 1).float(), pattern(0.5, 2).float()
    ahead = ~torch.ones(200, 200, dtype=torch.bool).tril()
    assert float((first == second)[ahead].float().mean()) == pytest.approx(0.5, abs=0.02)


def test_without_a_share_a_causal_pattern_needs_no_mask() -> None:
    spec = AttentionSpec(kind="causal")
    assert prepare_attention(spec, start=0, queries=8, keys=8, device=torch.device("cpu")).mask is None


def test_padding_and_documents_stay_hidden() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 1, -1]])
    spec = AttentionSpec(kind="causal", ahead=0.999, document_BL=documents)
    mask = prepare_attention(spec, start=0, queries=6, keys=6, device=torch.device("cpu")).mask
    assert mask is not None
    assert mask[0, 0].tolist()[:5] == [[True] * 3 + [False] * 3] * 3 + [[False] * 3 + [True] * 2 + [False]] * 2


@torch.no_grad()
def test_attention_opens_from_causal_to_full(model: DiffusionModel) -> None:
    full = model(IDS).logits
    causal = model(IDS, attention=AttentionSpec(kind="causal")).logits
    callback = OpeningAttention(model, steps=1000, seed=0)
    model.train()
    away = []
    for step in (0, 500, 999, 5000):
        at(callback, step)
        away.append(float((model(IDS).logits - full).norm() / (causal - full).norm()))
    assert away[0] == pytest.approx(1, abs=0.1) and 0.1 < away[1] < 0.9 and away[2] == away[3] == 0
    at(callback, 3)
    assert torch.equal(model(IDS).logits, model(IDS).logits)
    assert torch.equal(model.eval()(IDS).logits, full)
    assert torch.equal(model.train()(IDS, attention=AttentionSpec(kind="causal")).logits, causal)


# the mask token


@torch.no_grad()
def test_noise_is_on_masks_alone_and_shrinks(model: DiffusionModel) -> None:
    callback = NoisyMask(model, steps=4, seed=0, rank=0)
    ids = IDS.repeat(40, 20).clone()
    ids[:, ::3] = MASK
    embed, clean = model.trunk.embed, model.trunk.embed.weight[ids]
    sizes = []
    model.train()
    for step in range(6):
        at(callback, step)
        noise = embed(ids) - clean
        assert not noise[ids != MASK].any()
        sizes.append(float((noise[ids == MASK] / embed.weight.std(0)).std()))
    assert sizes == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0], abs=0.02)
    at(callback, 0)
    assert torch.equal(model.eval().trunk.embed(ids), clean)


@torch.no_grad()
def test_every_forward_has_noise_of_its_own_and_a_restart_the_same(model: DiffusionModel, checkpoint: Path) -> None:
    ids, again = torch.zeros(1, 8, dtype=torch.long), load_model(checkpoint)
    callback, other = NoisyMask(model, 9, seed=3, rank=0), NoisyMask(again, 9, seed=3, rank=0)
    third = load_model(checkpoint)
    elsewhere = NoisyMask(third, 9, seed=3, rank=1)
    for one in (model, again, third):
        one.train()
    at(callback, 2)
    forwards = [model.trunk.embed(ids) for _ in range(2)]
    at(callback, 3)
    forwards.append(model.trunk.embed(ids))
    at(elsewhere, 2)
    forwards.append(third.trunk.embed(ids))
    flat = torch.stack(forwards).flatten(1)
    assert len(torch.unique(flat, dim=0)) == 4
    at(other, 2)
    assert torch.equal(again.trunk.embed(ids), forwards[0])


# in a run


EASED = {"attention_annealing_steps": 4, "mask_noise_steps": 5, "lr_scheduler_type": "constant"}
STEADY = {**EASED, "save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}


def test_a_run_differs_and_resumes_exactly(settings: Make, tmp_path: Path) -> None:
    plain = train(settings(max_steps=1, gradient_accumulation_steps=2), verb="sft")
    alone = train(settings(output_dir=str(tmp_path / "alone"), max_steps=5, **STEADY), verb="sft")
    target = str(tmp_path / "stopped")
    train(settings(output_dir=target, max_steps=2, **STEADY), verb="sft")
    resumed = train(settings(output_dir=target, max_steps=5, **STEADY), verb="sft")
    losses = [[line["loss"] for line in run.history if "loss" in line] for run in (alone, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 5
    assert losses[0][0] != plain.history[0]["loss"]
    one, two = (load_file(run.folder / "model.safetensors") for run in (alone, resumed))
    assert all(one[key].equal(two[key]) for key in one)


# frozen parts


ATTENTION, MLP = {"q_proj", "k_proj", "v_proj", "attn_out"}, {"ff_proj", "up_proj", "ff_out"}


@pytest.mark.parametrize(
    ("freeze", "held"),
    [
        ("mlp", MLP),
        ("attention", ATTENTION),
        ("embeddings", {"wte"}),
        ("embeddings,head,*.1.ff_proj*", {"wte", "ff_out", "ff_proj"}),
        ("norms", {"attn_norm", "ff_norm", "ln_f"}),
        ("*.blocks.*", {*ATTENTION, *MLP, "attn_norm", "ff_norm"}),
        ("q_proj", {"q_proj"}),
        ("*.blocks.?.q_*,ln_f", {"q_proj", "ln_f"}),
    ],
)
def test_frozen_parts_keep_every_bit(freeze: str, held: set[str], settings: Make, checkpoint: Path) -> None:
    done = train(settings(freeze=freeze, max_steps=2), verb="sft")
    before, after = load_file(checkpoint / "model.safetensors"), load_file(done.folder / "model.safetensors")
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in same} == held
    if freeze == "embeddings":
        assert same == {"model.transformer.wte.weight"}
    if freeze in ("mlp", "*.blocks.*"):
        assert all(".blocks." in name for name in same)


def test_a_pattern_that_fits_nothing(settings: Make) -> None:
    with pytest.raises(ConfigError, match=r'freeze: no weight has "\*\.blocks\.9\.\*" in its name'):
        train(settings(freeze="*.blocks.9.*"), verb="sft")
