"""The exact cache of block-causal models: finished blocks are never computed again.

A block's keys and values depend on nothing behind it. The first forward of a block feeds, with it, the block that was
just finished, so that its final tokens are stored without a forward of their own (unless `cache_fuse` is off).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from unmask.generation.caching import CachePlan, Place
from unmask.generation.options import GenerationOptions


class BlockCache:
    """Feeds what is not final yet: at the start the prompt and a block, then the finished block and the next."""

    block_causal: ClassVar[bool | None] = True

    def __init__(self, options: GenerationOptions) -> None:
        self.fuses = options.cache_fuse

    def plan(self, places: Sequence[Place], hides_later: bool) -> list[CachePlan]:
        """See `CachePolicy`. Rows that are fed equally many columns share a forward."""
        groups: dict[int, list[int]] = {}
        plans = [] if self.fuses else self._commits(places)
        waiting = {row for plan in plans for row in plan.rows}
        for index, place in enumerate(places):
            if index in waiting:
                continue
            # rows of different length that begin share one: what lies behind a row's block is seen by nobody
            width = 0 if place.stored == 0 else place.last - place.stored
            groups.setdefault(width, []).append(index)
        return plans + [self._forward([places[index] for index in rows], tuple(rows)) for rows in groups.values()]

    def _commits(self, places: Sequence[Place]) -> list[CachePlan]:
        """Forwards that store finished blocks and nothing else, for one width each."""
        groups: dict[int, list[int]] = {}
        for index, place in enumerate(places):
            if 0 < place.stored < place.first:
                groups.setdefault(place.first - place.stored, []).append(index)
        return [
            CachePlan(
                tuple(rows),
                tuple((range(places[row].stored, places[row].first),) for row in rows),
                kind="commit",
                stores=True,
                settled=tuple(places[row].first for row in rows),
            )
            for rows in groups.values()
        ]

    def _forward(self, places: Sequence[Place], rows: tuple[int, ...]) -> CachePlan:
        begins = places[0].stored == 0
        last = max(place.last for place in places)
        if len({(place.first, place.end) for place in places}) == 1:
            last = min(last, places[0].end)
        spans = tuple((range(place.stored, last if begins else min(place.last, last)),) for place in places)
        return CachePlan(rows, spans, stores=True, settled=tuple(place.first for place in places))
