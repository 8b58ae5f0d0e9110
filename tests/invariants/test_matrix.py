"""The invariants of training in every combination: packed or not, compiled or not, recomputed or not, each objective.

Accumulation, packing, the head, the batch and ranks change no loss and no gradient. All are compared weight by weight;
what is computed in another order differs by rounding, in float32. In `make test` each two settings meet somewhere,
in `make test-all` all do.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.invariants import updates
from tests.invariants.updates import Combination, Learned, Run, write_material
from unmask.training.fed import forwards_of
from unmask.training.ingredients import collator_of, gather, load_for_training, objective_of
from unmask.training.library import compile_for_training, library_arguments
from unmask.training.loading import NoisedBatch, Noiser
from unmask.types import DenoiserOutput

OBJECTIVES = ("masked", "block", "autoregressive")
WHOLE = [
    Combination(*switches, objective)
    for switches in itertools.product((False, True), (False, True), (False, True))
    for objective in OBJECTIVES
]
# of each objective two opposites: whatever two settings are looked at, each pair of their values occurs
OPPOSITES = {
    "masked": [(False, False, False), (True, True, True)],
    "block": [(True, False, False), (False, True, True)],
    "autoregressive": [(False, True, False), (True, False, True)],
}
PAIRWISE = [how for how in WHOLE if (how.packed, how.compiled, how.recomputed) in OPPOSITES[how.objective]]
ALL_ON = Combination(True, True, True, "masked")
RELATIVE = 1e-5
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs g++ on a CPU")


def of_each(chosen: list[Combination], quick: list[Combination] = PAIRWISE) -> list[Any]:
    """Parameters; what is not in `quick` is left to the whole matrix, and an objective's runs to one process."""
    marked = [(how, [pytest.mark.xdist_group(how.objective)], [pytest.mark.long]) for how in chosen]
    return [
        pytest.param(how, id=str(how), marks=group if how in quick else [*group, *long]) for how, group, long in marked
    ]


def test_in_the_short_matrix_every_two_settings_meet() -> None:
    levels = [(how.packed, how.compiled, how.recomputed, how.objective) for how in PAIRWISE]
    for first, second in itertools.combinations(range(4), 2):
        met = {(level[first], level[second]) for level in levels}
        assert len(met) == (6 if second == 3 else 4)
    assert len(levels) == 6 and len(WHOLE) == len(set(WHOLE)) == 24


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="module")
def learned(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Run], Learned]]:
    """What runs learn, each done once."""

    @cache
    def of(run: Run) -> Learned:
        return run.learned(material, tmp_path_factory.mktemp("run"))

    torch.compiler.reset()
    yield of
    torch.compiler.reset()


def same(one: Learned, other: Learned) -> None:
    """Losses, and the gradient of every weight, in each update."""
    assert len(one) == len(other) == 2
    for number, (expected, found) in enumerate(zip(one, other, strict=True)):
        assert expected.keys() == found.keys() and len(expected) > 20
        for name in expected:
            size = expected[name].norm()
            assert size > 0 and (found[name] - expected[name]).norm() <= RELATIVE * size, (number, name)


@pytest.mark.parametrize("how", of_each(WHOLE))
def test_accumulation_changes_nothing(learned: Callable[[Run], Learned], how: Combination) -> None:
    whole = learned(Run(how))
    for micro in (2, 1):
        same(whole, learned(Run(how, micro=micro, accumulation=8 // micro)))


@pytest.mark.parametrize("how", of_each([how for how in WHOLE if how.packed]))
def test_packed_documents_learn_as_padded_ones(learned: Callable[[Run], Learned], how: Combination) -> None:
    same(learned(Run(how, apart=True)), learned(Run(how)))


@pytest.mark.parametrize("how", of_each(WHOLE))
def test_the_head_in_tiles_where_something_is_predicted_learns_as_everywhere(
    learned: Callable[[Run], Learned], how: Combination
) -> None:
    same(learned(Run(how, naive=True)), learned(Run(how)))


@pytest.mark.parametrize("how", of_each([how for how in WHOLE if how.compiled or how.recomputed]))
def test_neither_compiling_nor_recomputing_changes_anything(
    learned: Callable[[Run], Learned], how: Combination
) -> None:
    same(learned(Run(replace(how, compiled=False, recomputed=False))), learned(Run(how)))


@needs_compiler
@pytest.mark.parametrize("how", of_each([how for how in WHOLE if how.compiled], quick=[]))
def test_inductor_learns_as_what_is_not_compiled(learned: Callable[[Run], Learned], how: Combination) -> None:
    same(learned(Run(replace(how, compiled=False))), learned(Run(how, backend="inductor")))


class Ready:
    """Model, objective and the first update of a run, without its trainer."""

    def __init__(self, how: Combination, material: Path, output: Path) -> None:
        settings = Run(how).settings(material, output)
        parts = gather(settings, "sft")
        self.model = load_for_training(settings, parts).train()
        self.objective = objective_of(settings, "sft", self.model.mask_token_id)
        noiser = Noiser(collator_of(settings, "sft", parts.tokenizer), self.objective)
        if how.recomputed:
            self.model.gradient_checkpointing_enable()
        compile_for_training(settings, library_arguments(settings, updates=1, evaluate=False), self.model)
        (self.together,) = forwards_of(settings, "sft", parts, noiser, 1, 1)
        one_by_one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
        apart = replace(settings, trainer={**settings.trainer, **one_by_one})
        self.alone = list(forwards_of(apart, "sft", parts, noiser, 1, 1))

    def nll(self, fed: NoisedBatch) -> Tensor:
        """Of each predicted token, where gradients are wanted too; float32, nats."""
        heard: list[Tensor] = []

        def denoiser(tokens_BL: Tensor, **asked: Any) -> DenoiserOutput:
            out = self.model(tokens_BL, **asked)
            heard.append(out.nll)
            return out

        self.objective(denoiser, fed.batch, fed.noise).loss.backward()
        return heard[0].detach()

    def sample(self, fed: NoisedBatch) -> Tensor:
        """Which sample each predicted token is of, int64."""
        if hasattr(fed.noise, "sample"):
            return fed.noise.sample
        return fed.batch.sample_BL.flatten()[fed.noise.predict_at]


@pytest.mark.parametrize("how", of_each(WHOLE))
def test_a_rows_loss_does_not_depend_on_its_neighbours(material: Path, tmp_path: Path, how: Combination) -> None:
    with Run(how).small():
        ready = Ready(how, material, tmp_path)
        together, batch = ready.nll(ready.together), ready.together.batch
        assert how.is_of(ready.model)
        assert how.packed == (batch.positions_BL is not None) and len(ready.alone) == len(batch.x0_BL) == 8
        alone = torch.cat([ready.nll(one) for one in ready.alone])
        torch.testing.assert_close(together, alone, rtol=RELATIVE, atol=RELATIVE)
        sample_n = ready.sample(ready.together)
        for parity in (0, 1):
            # other tokens in every second sample, those before and behind it in a packed row
            changes_BL = (batch.sample_BL >= 0) & (batch.sample_BL % 2 == parity)
            other = replace(batch, x0_BL=torch.where(changes_BL, 200 - batch.x0_BL.clamp(max=100), batch.x0_BL))
            found = ready.nll(replace(ready.together, batch=other, noise=ready.objective.noise(other)))
            stays_n = sample_n % 2 != parity
            torch.testing.assert_close(found[stays_n], together[stays_n], rtol=RELATIVE, atol=RELATIVE)
            assert ((found - together)[~stays_n].abs() > 0.01).double().mean() > 0.9


# starting processes is left to the whole matrix, and compiling in each of them to its parts
TWO = [how for how in PAIRWISE if how.packed and not how.compiled]
SHARED = [[how for how in WHOLE if how.objective == objective] for objective in OBJECTIVES]


@pytest.mark.parametrize(
    "chosen", [pytest.param(some, marks=pytest.mark.long) for some in (TWO, *SHARED)], ids=["two", *OBJECTIVES]
)
def test_two_processes_learn_what_one_learns(
    learned: Callable[[Run], Learned],
    material: Path,
    tmp_path: Path,
    chosen: list[Combination],
) -> None:
    jobs = [updates.job(Run(how, micro=2, accumulation=2)) for how in chosen]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    root = Path(__file__).parents[2]
    command = [sys.executable, updates.__file__, str(tmp_path / "jobs.json"), str(material), str(tmp_path)]
    paths = os.pathsep.join((str(root / "src"), str(root)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for number, how in enumerate(chosen):
        told = load_file(tmp_path / f"{number}.safetensors")
        found: Learned = [{}, {}]
        for name, value in told.items():
            update, _, weight = name.partition(" ")
            found[int(update)][weight] = value
        same(learned(Run(how)), found)
