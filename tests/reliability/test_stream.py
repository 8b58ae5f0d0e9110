"""What is seen when, and under which noise, does not depend on processes, workers or the shape of a forward."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from unmask.training.arguments import Settings
from unmask.training.fed import fed_to
from unmask.training.ingredients import collator_of, gather, objective_of
from unmask.training.loading import NoisedBatch, Noiser

# processes, samples of a forward, forwards of a process: always eight in an update
SHARES = [(1, 8, 1), (2, 4, 1), (4, 2, 1), (1, 2, 4), (2, 1, 4), (4, 1, 2)]
UPDATES = 7


@pytest.mark.parametrize("objective", ["masked", "block"])
def test_twelve_streams_are_one(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, objective: str, figure: Callable
) -> None:
    asked = settings(objective=objective, block_size=8, random_length_ratio=0.3, max_steps=UPDATES, padding="none")
    parts, hashes = gather(asked, "sft"), set()
    shapes = list(itertools.product(SHARES, (0, 2)))
    for (ranks, micro, accumulation), workers in shapes:
        trainer = {
            **asked.trainer,
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": accumulation,
            "dataloader_num_workers": workers,
        }
        mine = Settings(asked.model, asked.data, asked.objective, asked.run, trainer)
        seen: list[tuple[Any, ...]] = []
        for rank in range(ranks):
            monkeypatch.setenv("WORLD_SIZE", str(ranks))
            monkeypatch.setenv("RANK", str(rank))
            made = objective_of(mine, "sft", parts.facts.mask_token_id, shifted=False)
            noiser = Noiser(collator_of(mine, "sft", parts.tokenizer), made)
            seen += itertools.chain.from_iterable(map(samples, fed_to(mine, "sft", parts, noiser).loader()))
        assert len(seen) == 8 * UPDATES
        hashes.add(hashlib.sha256(repr(sorted(seen)).encode()).hexdigest())
    assert len(hashes) == 1
    figure(f"R5  {len(shapes)} of {len(shapes)} streams are the same, objective {objective}")


def samples(item: NoisedBatch) -> Iterator[tuple[Any, ...]]:
    """Of each sample: its number, its row, the tokens that are to be predicted, and their weights."""
    keys, noise = item.batch.keys, item.noise
    for place, (visit, row) in enumerate(zip(keys.visit_S.tolist(), keys.row_S.tolist(), strict=True)):
        own = noise.sample == place
        yield visit, row, tuple(noise.targets[own].tolist()), tuple(noise.loss_weight[own].tolist())
