"""Lossless speculation: one forward looks at the canvas as it is and as it will probably be after the next steps.

What the strategy would do next, if the logits stayed as they were, is guessed. The forward is given the guessed states
beside the true one. As long as a guess turns out to be what the strategy really does, the step after it is known
without a forward of its own. Nothing depends on the guesses but how many forwards are made.

After Spiffy (arXiv 2509.18085) and FreeDave; here the draft is the strategy itself on old logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unmask.errors import ConfigError
from unmask.generation.canvas import Canvas, on_host
from unmask.generation.choosing import Chooser
from unmask.generation.feeding import Feeder
from unmask.generation.options import GenerationOptions
from unmask.generation.rows import Row


@dataclass(frozen=True)
class _Seen:
    """The last logits of a row's block, and where they were wanted."""

    block: int
    wanted_1W: Tensor
    logits_nV: Tensor


@dataclass
class Speculation:
    """Guesses `width` states ahead."""

    chooser: Chooser
    filler_id: int
    width: int
    _seen: dict[int, _Seen] = field(default_factory=lambda: dict[int, _Seen]())

    def guesses(self, rows: Sequence[Row], firsts: Sequence[int], window: Canvas) -> list[Canvas]:
        """States of all rows after 1, 2, ... more steps; none where a row's block has just begun, or will be full."""
        if any(row.within == 0 for row in rows):
            return []
        # a step writes one token at least, and of a full block nothing is asked
        most = min(self.width, max(on_host(window.is_masked_BL.sum(1)), default=0) - 1)
        chains = [
            self._chain(row, first, window.take([index]), most)
            for index, (row, first) in enumerate(zip(rows, firsts, strict=True))
        ]
        return [stacked([chain[ahead] for chain in chains]) for ahead in range(most)]

    def states(
        self, rows: Sequence[Row], window: Canvas, guesses: Sequence[Canvas], logits_nV: Tensor
    ) -> Iterator[tuple[int, list[tuple[Canvas, Tensor]]]]:
        """For each row, its true state and the guessed ones, with the logits of each."""
        views = [window, *guesses]
        counts: list[int] = on_host(torch.cat([view.is_masked_BL.sum(1) for view in views]))
        pieces = torch.split(logits_nV, counts)
        for index in range(len(rows)):
            yield (
                index,
                [(view.take([index]), pieces[place * len(rows) + index]) for place, view in enumerate(views)],
            )

    def remember(self, row: Row, state: Canvas, logits_nV: Tensor) -> None:
        """Keep what was seen of a row's block."""
        self._seen[row.slot] = _Seen(row.block, state.is_masked_BL, logits_nV)

    @torch.no_grad()
    def _chain(self, row: Row, first: int, state: Canvas, length: int) -> list[Canvas]:
        seen, chain = self._seen[row.slot], list[Canvas]()
        for ahead in range(length):
            still_n = state.is_masked_BL[seen.wanted_1W]
            if bool(still_n.any()):
                _, proposal, transfer = self.chooser.choose(
                    [row], [first], state, seen.logits_nV[still_n], 0, ahead=ahead
                )
                state = state.apply(transfer.write_BL, proposal.predicted_BL, None, self.filler_id)
            chain.append(state)
        return chain


def stacked(parts: Sequence[Canvas]) -> Canvas:
    """Canvases of one row each, and of one width, as one."""
    return Canvas(
        tokens_BL=torch.cat([part.tokens_BL for part in parts]),
        is_masked_BL=torch.cat([part.is_masked_BL for part in parts]),
        given_BL=torch.cat([part.given_BL for part in parts]),
        starts=tuple(part.starts[0] for part in parts),
        ends=tuple(part.ends[0] for part in parts),
        rows=tuple(part.rows[0] for part in parts),
    )


def speculation_for(chooser: Chooser, feeder: Feeder, filler_id: int, options: GenerationOptions) -> Speculation | None:
    """The speculation that was asked for, if any.

    Raises:
        ConfigError: it does not go with the strategy or the cache.
    """
    if options.speculate == 0:
        return None
    if chooser.reads_filled or not chooser.forgets:
        raise ConfigError(
            f'speculate is {options.speculate}, but strategy "{options.strategy}" takes tokens back or remembers '
            "earlier steps. Speculate with another strategy, or set speculate 0."
        )
    if options.cache not in ("none", "auto", "block"):
        raise ConfigError(
            f'speculate needs what a state sees to be exact, which cache "{options.cache}" is not: cache none or block.'
        )
    return Speculation(chooser, filler_id, options.speculate) if feeder.can_branch(options) else None
