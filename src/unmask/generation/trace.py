"""What generation reports: commits as they happen, figures, completions. Knows ids only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class Commit:
    """What one step wrote in one row.

    Attributes:
        row: number of the row in the request.
        step: number of the step, from 0; a step is one forward of the batch.
        block: number of the block.
        positions: positions in the row, its given text included, ascending.
        token_ids: what was written there.
        confidences: probability of each written token, without temperature.
        remasked: positions that became masked again.
    """

    row: int
    step: int
    block: int
    positions: tuple[int, ...]
    token_ids: tuple[int, ...]
    confidences: tuple[float, ...]
    remasked: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trace:
    """How a row was written: apply the commits to the canvas in order and the completion appears.

    Attributes:
        token_ids: the row at the start, the mask token at masked positions.
        masked: the positions masked at the start, ascending.
        commits: one per step that changed the row.
    """

    token_ids: tuple[int, ...]
    masked: tuple[int, ...]
    commits: tuple[Commit, ...]

    def to_json(self) -> str:
        """One JSON object with the fields of the dataclasses."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Forwards:
    """Calls of the denoiser that a row took part in, guidance's two halves being one call."""

    denoise: int = 0
    commit: int = 0
    refresh: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.denoise + self.commit + self.refresh


@dataclass(frozen=True)
class Stats:
    """Figures of one row.

    Attributes:
        emitted: tokens handed back; the prompt, the stop token and what follows it do not count.
        forwards: calls of the denoiser.
        positions: positions computed for the row in all calls, padding and guidance's second half included.
    """

    emitted: int
    forwards: Forwards
    positions: int


@dataclass(frozen=True)
class Completion:
    """One finished row.

    Attributes:
        token_ids: generated ids, up to the first stop token and without it (the whole canvas when early stop is off);
            for infilling the whole row.
        finish_reason: "stop" when a stop token ended it, else "length".
        stats: its figures.
        trace: how it was written, when asked for.
    """

    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    stats: Stats
    trace: Trace | None = None
