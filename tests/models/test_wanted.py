"""What is picked for the places that are asked for, against one place after the other."""

from __future__ import annotations

import pytest
import torch

from unmask.models.attention import PreparedAttention
from unmask.models.rotary import Rotation
from unmask.models.wanted import Wanted

BATCH, LENGTH, WIDTH = 3, 10, 4
PLACES = {
    "as many in each row": [1, 7, 10, 12, 23, 29],
    "as many, out of order": [7, 1, 12, 10, 29, 23],
    "few columns": [3, 4, 15, 23],
    "one row alone": [12, 15],
    "as many as rows, all in the first": [1, 2, 4],
    "as many as rows, all in the last": [21, 22, 24],
    "columns from end to end": [0, 19, 25, 28],
}


def asked(name: str, *, can_part: bool = True) -> tuple[torch.Tensor, Wanted]:
    at_n = torch.tensor(PLACES[name])
    with torch.no_grad():
        return at_n, Wanted.among(at_n, BATCH, LENGTH, can_part=can_part)


@pytest.mark.parametrize("can_part", [False, True])
@pytest.mark.parametrize("name", PLACES)
def test_rows_are_those_of_the_places_in_their_order(name: str, can_part: bool) -> None:
    at_n, wanted = asked(name, can_part=can_part)
    x_BLD = torch.randn(BATCH, LENGTH, WIDTH)
    expected = torch.stack([x_BLD[at // LENGTH, at % LENGTH] for at in at_n.tolist()])
    assert torch.equal(wanted.of(x_BLD).flatten(0, 1), expected)
    # what was seen has one row per query, whoever asked
    seen_BHLK = wanted.asking(x_BLD).unflatten(-1, (2, 2)).transpose(1, 2)
    assert torch.equal(wanted.of_seen(seen_BHLK).transpose(1, 2).flatten(2).flatten(0, 1), expected)


@pytest.mark.parametrize("name", PLACES)
def test_who_asks_keeps_its_angles_and_its_sight(name: str) -> None:
    at_n, wanted = asked(name)
    position_BL = torch.randint(0, 50, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    rotation = Rotation.at(position_BL, width=WIDTH, theta=100.0)
    mask = torch.rand(BATCH, 1, LENGTH, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.5
    everywhere = torch.arange(BATCH * LENGTH).view(BATCH, LENGTH, 1)
    asking = wanted.asking(everywhere)[..., 0]
    assert set(at_n.tolist()) <= set(asking.flatten().tolist())
    angles, sight = wanted.angles(rotation), wanted.sight(PreparedAttention(mask))
    for row in range(BATCH):
        for query, flat in enumerate(asking[row].tolist()):
            assert flat // LENGTH == row
            assert torch.equal(angles.cos[row, 0, query], rotation.cos[row, 0, flat % LENGTH])
            assert sight.mask is not None and torch.equal(sight.mask[row, 0, query], mask[row, 0, flat % LENGTH])


def test_all_columns_ask_where_some_cannot_be_had_alone() -> None:
    assert asked("few columns")[1].is_narrow and asked("as many in each row")[1].is_narrow
    assert not asked("few columns", can_part=False)[1].is_narrow
    assert not asked("columns from end to end")[1].is_narrow
    with torch.enable_grad():
        assert not Wanted.among(torch.tensor([3, 4]), BATCH, LENGTH, can_part=True).is_narrow
