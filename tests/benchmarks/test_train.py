"""The training benchmark compares like with like: the same tokens masked, the same loss and gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.train import CASES, Case, arguments, drawn_rows, figures, lines, llada, work_of, write
from stepping import PARTS
from train_side import Ours, batch_of

TINY = llada(16, 2, 2, 32, 64)
LENGTHS = [(3, 9), (2, 20), (5, 6), (0, 14)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("models") / "tiny", TINY)


def job(folder: Path, **changes: object) -> dict:
    return {"folder": str(folder), "dtype": "float32", "device": "cpu", "lora": False, **changes}


@pytest.mark.parametrize("case", [Case("even", TINY, 2, 16), Case("uneven", TINY, 4)])
@pytest.mark.parametrize("lora", [False, True])
def test_our_step_is_the_naive_one(folder: Path, case: Case, lora: bool) -> None:
    side = Ours(job(folder, lora=lora))
    side.model.eval()  # an adapter's dropout draws anew
    apart = side.check(work_of(case, 1, LENGTHS))
    assert apart["loss"] < 1e-6 and apart["gradient"] < 1e-5
    assert apart["parameters"] == len(side.trained) > 20 - 12 * lora


def test_packed_or_padded_the_same_tokens_are_masked() -> None:
    work = work_of(Case("uneven", TINY, 4), 2, LENGTHS)
    (padded, noise, count), (packed, other, again) = (batch_of(work, TINY, packed=packed) for packed in (False, True))
    assert torch.equal(noise.targets, other.targets) and torch.equal(noise.loss_weight, other.loss_weight)
    assert count == again == sum(length - given for given, length in LENGTHS)
    assert packed.x0_BL.shape == (1, work["real"]) and padded.x0_BL.shape == (4, 20)


def test_the_other_side_is_handed_the_same_noise() -> None:
    work = work_of(Case("uneven", TINY, 4), 0, LENGTHS)
    batch, noise, count = batch_of(work, TINY, packed=False)
    masked, labels = torch.tensor(work["masked"]), torch.tensor(work["labels"])
    assert torch.equal(masked.flatten().nonzero()[:, 0], noise.masked_at)
    assert int((labels >= 0).sum()) == count and bool((labels >= 0)[masked].all())
    weights = (1 / torch.tensor(work["times"]))[noise.sample]
    torch.testing.assert_close(weights, noise.loss_weight)
    assert torch.tensor(work["attention_mask"]).sum() == work["real"] == (batch.sample_BL >= 0).sum()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("naive", [False, True])
def test_a_step_trains_and_is_timed(folder: Path, dtype: str, naive: bool) -> None:
    side, work = Ours(job(folder, dtype=dtype), naive=naive), work_of(Case("even", TINY, 2, 16), 0, LENGTHS)
    first = side.step(work)
    for _ in range(3):
        last = side.step(work)
    assert last["loss"] < first["loss"] and tuple(first["parts"]) == PARTS and first["peak"] > 2**20
    assert first["seconds"] == pytest.approx(sum(first["parts"].values()))


@pytest.mark.parametrize("lora", [False, True])
def test_a_side_that_takes_turns_holds_nothing_between_them(
    folder: Path, lora: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = work_of(Case("even", TINY, 2, 16), 0, LENGTHS)
    sides = []
    for _ in range(2):
        torch.manual_seed(0)  # an adapter's first weights; its dropout draws anew
        sides.append(Ours(job(folder, lora=lora)))
        sides[-1].model.eval()
    alone, side = sides
    wanted = [alone.step(work)["loss"] for _ in range(4)]
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    side.takes_turns = True
    assert [side.turn(work)["loss"] for _ in range(2)] == wanted[::2] and len(emptied) == 2
    side.move(torch.device("meta"))
    held = [*side.model.parameters(), *(value for known in side.optimizer.state.values() for value in known.values())]
    assert len(held) == len(list(side.model.parameters())) + 3 * len(side.trained)
    assert {tensor.device.type for tensor in held} == {"meta"}
    assert all(weight.grad is None for weight in side.trained)


def test_recomputing_changes_no_gradient(folder: Path) -> None:
    kept, again = Ours(job(folder)), Ours(job(folder, recompute=True))
    assert again.model.trunk.recompute == "whole_layer" and kept.model.trunk.recompute is None
    for naive in (False, True):
        of_both = []
        for side in (kept, again):
            (side._naive if naive else side._ours)(work_of(Case("uneven", TINY, 4), 1, LENGTHS)).backward()
            of_both.append([weight.grad for weight in side.trained])
            side.optimizer.zero_grad()
        torch.testing.assert_close(*of_both, atol=1e-6, rtol=1e-5)


def test_ratios_are_of_the_same_round() -> None:
    def steps(seconds: list[float], peak: int) -> list[dict]:
        return [{"seconds": s, "parts": dict.fromkeys(PARTS, s / 4), "peak": peak, "loss": 2.0} for s in seconds]

    found = figures({"ours": steps([9, 1, 2, 1], 10), "dllm": steps([9, 4, 4, 6], 40)}, [5, 10, 10, 20])
    assert found["dllm"]["ratio"] == {"median": 4, "least": 2, "most": 6} and found["dllm"]["memory"] == 0.25
    assert found["ours"]["tokens_per_second"] == 10
    rows = list(lines({"case": "c", "dtype": "float32", **found}))
    assert len(rows) == 2 and "4.00 (2.00 to 6.00)" in rows[1]


def test_every_case_draws_its_rows() -> None:
    for case in CASES:
        rows, given = drawn_rows(case, 0, LENGTHS * 4)
        assert len(rows) == case.rows and all(len(row) > start for row, start in zip(rows, given, strict=True))
    assert arguments([]).rounds >= 5
