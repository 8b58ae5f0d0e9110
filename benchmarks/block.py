"""Block diffusion: what two streams cost by tiles, against the dense mask over both that it replaces.

Attention alone, and a whole training step of a small network: pairs of query and key that are computed, bytes alive at
once, CPU seconds of forward and backward, interleaved, medians. Ratios are dense by tiles: larger is better.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from unmask.data.collate import Collator, Visit
from unmask.diffusion.blocks import block_ids, two_stream
from unmask.models import attention, tiled
from unmask.models.attention import PreparedAttention, attend, prepare_attention
from unmask.models.facts import facts_of
from unmask.models.families.llada import FAMILY
from unmask.models.shell import DiffusionModel
from unmask.objectives.block import BlockDiffusion
from unmask.training.rehearsal import Ledger

HEADS, WIDTH = 8, 64
MASK = 8191


def interleaved(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            started = time.process_time()
            work()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak(work: Callable[[], Any]) -> int:
    """Bytes alive at once of what the work makes."""
    ledger = Ledger()
    with ledger:
        work()
    return ledger.together


def dense(length: int, size: int) -> PreparedAttention:
    """The mask over all pairs."""
    kept, attention.TILE = attention.TILE, 10**9
    how = tiles(length, size)
    attention.TILE = kept
    return how


def tiles(length: int, size: int) -> PreparedAttention:
    """What the package makes of the same pattern."""
    spec, columns = two_stream(block_ids(torch.arange(length)[None], size)), 2 * length
    return prepare_attention(spec, start=0, queries=columns, keys=columns, device=torch.device("cpu"))


def one_layer(length: int, size: int, rounds: int) -> dict[str, Any]:
    """One layer's attention, forward and backward, the pattern made each time."""
    q, k, v = (torch.randn(1, HEADS, 2 * length, WIDTH, requires_grad=True) for _ in range(3))

    def work(make: Callable[[int, int], PreparedAttention]) -> None:
        torch.autograd.grad(attend(q, k, v, make(length, size)).sum(), (q, k, v))

    works = {"dense": lambda: work(dense), "tiles": lambda: work(tiles)}
    seconds, bytes_ = interleaved(works, rounds), {name: peak(each) for name, each in works.items()}
    part = sum(_pairs(tile) for tile in tiles(length, size).tiles) / (2 * length) ** 2
    needed = (length * size + length**2) / (2 * length) ** 2
    return {
        "case": f"attention, L {length}, blocks of {size}",
        "pairs": part,
        "needed": needed,
        **ratios(seconds, bytes_),
    }


def _pairs(tile: tiled.Tile) -> int:
    return (tile.rows.stop - tile.rows.start) * (
        tile.keys.stop - tile.keys.start if isinstance(tile.keys, slice) else len(tile.keys)
    )


def step(length: int, size: int, prompt: int, rounds: int) -> dict[str, Any]:
    """A training step: whole rows in both streams under a dense mask, against what the objective feeds, by tiles."""
    shape = {"d_model": 256, "n_heads": 4, "n_kv_heads": 4, "n_layers": 4, "mlp_hidden_size": 768, "vocab_size": 8192}
    more = {"embedding_size": 8192, "max_sequence_length": length, "mask_token_id": MASK}
    model = DiffusionModel(facts_of({**FAMILY.tiny_config, **shape, **more}))
    model.trunk.initialise(model.head, torch.Generator().manual_seed(0))
    ids = torch.randint(0, 8000, (2, length), generator=torch.Generator().manual_seed(0))
    record = [{"input_ids": row, "may_noise": torch.arange(length) >= prompt} for row in ids]
    visits = [Visit(index, index, 0, length, length) for index in range(2)]
    batch = Collator(0, 0, "none")(list(zip(visits, record, strict=True)))

    def work(halves: bool) -> None:
        objective = BlockDiffusion(MASK, block_size=size, halves=halves)
        kept = attention.TILE
        attention.TILE = 10**9 if halves else kept
        objective(model, batch, objective.noise(batch)).loss.backward()
        attention.TILE = kept
        model.zero_grad()

    works = {"dense": lambda: work(True), "tiles": lambda: work(False)}
    seconds, bytes_ = interleaved(works, rounds), {name: peak(each) for name, each in works.items()}
    told = f"step, 2 x {length}, blocks of {size}" + f", prompt {prompt}" * bool(prompt)
    return {"case": told, **ratios(seconds, bytes_)}


def ratios(seconds: dict[str, float], bytes_: dict[str, int]) -> dict[str, float]:
    return {
        "time": seconds["dense"] / seconds["tiles"],
        "memory": bytes_["dense"] / bytes_["tiles"],
        "seconds": seconds["tiles"],
        "MiB": bytes_["tiles"] / 2**20,
    }


def shown(result: dict[str, Any]) -> str:
    pairs = f"{result['pairs']:.1%} of the square ({result['needed']:.1%} needed), " if "pairs" in result else ""
    return f"{result['case']}: {pairs}time {result['time']:.2f}x, memory {result['memory']:.2f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cases: list[Callable[[], dict[str, Any]]] = [
        *(lambda length=length, size=size: one_layer(length, size, asked.rounds) for length, size in
          ((512, 4), (1024, 4), (1024, 32), (2048, 4))),
        lambda: step(1024, 4, 0, asked.rounds),
        lambda: step(1024, 4, 512, asked.rounds),
    ]  # fmt: skip
    for case in cases:
        result = case()
        print(json.dumps(result) if asked.json else shown(result), flush=True)


if __name__ == "__main__":
    main()
