"""A stream is shared out among ranks like any other dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from unmask.training.arguments import Settings
from unmask.training.loading import VisitedStream
from unmask.training.plan import RandomLength, Shares
from unmask.training.run import train

ROWS = [{"input_ids": [index] * (index + 1)} for index in range(7)]


@pytest.mark.parametrize(("micro", "accumulation", "ranks"), [(4, 1, 1), (2, 1, 2), (1, 2, 2), (1, 1, 4)])
def test_all_ranks_together_see_the_stream_in_order_again_and_again(micro: int, accumulation: int, ranks: int) -> None:
    seen = {}
    for rank in range(ranks):
        shares = Shares(micro, accumulation, ranks, rank)
        for forward in VisitedStream(ROWS, shares, 5 * accumulation, RandomLength()):
            assert len(forward) == micro
            seen |= {visit.number: (visit.row, visit.epoch, row["input_ids"][0]) for visit, row in forward}
    assert seen == {number: (number % 7, number // 7, number % 7) for number in range(20)}


def test_an_empty_stream_ends() -> None:
    assert [forward for forward in VisitedStream([], Shares(2), 3, RandomLength()) if forward] == []


def test_workers_do_not_change_what_is_streamed(settings: Callable[..., Settings], tmp_path: Path, texts: Path) -> None:
    more = {"streaming": True, "dataset_args": str(texts), "max_length": 32, "max_steps": 4}
    runs = [
        train(settings(output_dir=str(tmp_path / f"{n}"), dataloader_num_workers=n, **more), verb="pretrain")
        for n in (0, 2)
    ]
    assert [line["step"] for line in runs[1].history] == [1, 2, 3, 4]
    one, two = (load_file(run.folder / "model.safetensors") for run in runs)
    assert all(one[name].equal(two[name]) for name in one)
