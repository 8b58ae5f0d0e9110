from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from unmask.diffusion.keys import Purpose, uniforms


def test_numbers_are_those_of_numpys_philox():
    stream = np.random.Philox(key=[7, 3], counter=[0, 11, 12, 13])
    expected = np.random.Generator(stream).random(5)
    assert uniforms(5, seed=7, purpose=Purpose.LENGTH, key=(11, 12, 13)).tolist() == expected.tolist()


def test_values_are_frozen():
    # Runs are resumed by later versions: these numbers must never change.
    drawn = uniforms(3, seed=42, purpose=Purpose.MASK, key=(5, 0, 1))
    assert drawn.dtype == torch.float64
    assert drawn.tolist() == [0.9639553012536966, 0.5650889250769173, 0.5475760906396148]
    assert [purpose.value for purpose in Purpose] == list(range(7))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 100])
def test_the_first_numbers_do_not_depend_on_the_count(count: int):
    long = uniforms(101, seed=1, purpose=Purpose.MASK, key=(2, 3, 4))
    assert torch.equal(uniforms(count, seed=1, purpose=Purpose.MASK, key=(2, 3, 4)), long[:count])


def test_every_argument_names_another_stream():
    names = itertools.product([0, 1, 2**63], [Purpose.TIME, Purpose.EVAL], [0, 1], [0, 1], [0, 1])
    seen = {tuple(uniforms(2, seed=seed, purpose=purpose, key=(a, b, c)).tolist()) for seed, purpose, a, b, c in names}
    assert len(seen) == 3 * 2 * 2 * 2 * 2


def test_negative_and_huge_integers_are_keys_too():
    drawn = uniforms(4, seed=-1, purpose=Purpose.TIME, key=(-1, 2**62, 0))
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert not torch.equal(drawn, uniforms(4, seed=1, purpose=Purpose.TIME, key=(1, 2**62, 0)))


def test_neighbouring_keys_are_uniform_and_uncorrelated():
    rows, columns = 400, 250
    drawn = torch.stack([uniforms(columns, seed=0, purpose=Purpose.MASK, key=(row, 0, 0)) for row in range(rows)])
    total = rows * columns
    counts = torch.histc(drawn, bins=100, min=0, max=1)
    chi_square = float(((counts - total / 100) ** 2 / (total / 100)).sum())
    assert 99 - 4 * (2 * 99) ** 0.5 < chi_square < 99 + 4 * (2 * 99) ** 0.5
    assert abs(float(drawn.mean()) - 0.5) < 4 * (1 / 12 / total) ** 0.5
    assert abs(float(drawn.var()) - 1 / 12) < 4 * (1 / 180 / total) ** 0.5
    centred = (drawn - 0.5) * 12**0.5
    for other in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1]):
        assert abs(float(other.mean())) < 4 / other.numel() ** 0.5
