"""Caches of models in which everybody sees everybody: approximations that feed a window and reuse the rest.

One plan with knobs serves them all: when the whole row is fed again, how much is fed around the active block, how
long a finished block is fed on, and how far ahead there is anything at all. The policies below are settings of it.

Sources: Fast-dLLM (arXiv 2505.22618): prefix, dual; dInfer: vicinity and warm-up; dLLM-Cache (arXiv 2506.06295):
interval; d3LLM: delay; Streaming-dLLM: horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from unmask.generation.caching import CachePlan, Place
from unmask.generation.options import GenerationOptions


@dataclass(frozen=True)
class Window:
    """What is fed, and when all is.

    Attributes:
        before, after: columns fed beside the active block; None: all there are.
        at_blocks: the whole row is fed when a block begins.
        interval: the whole row is fed when so many steps were made without; None: never for that reason.
        warmup: so many first steps feed the whole row.
        delay: so many first steps of a block feed the block before it, too.
        horizon: columns behind the active block that exist for the model, besides the row's last one; None: all.
        drift: the whole row is fed when what was fed last had moved by more than this share; None: never for that.
    """

    before: int | None = 0
    after: int | None = 0
    at_blocks: bool = True
    interval: int | None = None
    warmup: int = 0
    delay: int = 0
    horizon: int | None = None
    drift: float | None = None


class WindowedCache:
    """Feeds a window around the active block, and now and then the whole row."""

    block_causal: ClassVar[bool | None] = False
    window: ClassVar[Window]

    def __init__(self, options: GenerationOptions) -> None:
        given = {
            "before": options.cache_before,
            "after": options.cache_after,
            "interval": options.cache_interval,
            "warmup": options.cache_warmup,
            "delay": options.cache_delay,
            "horizon": options.cache_horizon,
            "drift": options.cache_drift,
        }
        self.settings = replace(self.window, **{name: value for name, value in given.items() if value is not None})

    def plan(self, places: Sequence[Place], hides_later: bool) -> list[CachePlan]:
        """See `CachePolicy`. One forward for the rows fed whole, one for each width of window."""
        del hides_later
        whole = [index for index, place in enumerate(places) if self._refreshes(place)]
        spans = {index: self._spans(place) for index, place in enumerate(places) if index not in whole}
        groups: dict[int, list[int]] = {}
        for index, own in spans.items():
            groups.setdefault(sum(map(len, own)), []).append(index)
        plans = [self._whole(places, whole)] if whole else []
        for rows in groups.values():
            fed, unseen = tuple(spans[row] for row in rows), self._unseen(places, rows)
            plans.append(CachePlan(tuple(rows), fed, stores=True, unseen=unseen))
        return plans

    def _refreshes(self, place: Place) -> bool:
        settings = self.settings
        # a horizon goes on with the blocks, and what comes into sight was never fed
        at_blocks = settings.at_blocks or settings.horizon is not None
        if place.since is None or place.total < settings.warmup or (at_blocks and place.within == 0):
            return True
        is_due = settings.interval is not None and place.since >= settings.interval
        has_moved = settings.drift is not None and place.drift is not None and place.drift > settings.drift
        return is_due or has_moved

    def _whole(self, places: Sequence[Place], rows: Sequence[int]) -> CachePlan:
        if self.settings.horizon is None:
            # padding behind shorter rows is seen by nobody: all rows share their columns
            everything = range(max(places[row].end for row in rows))
            return CachePlan(tuple(rows), ((everything,),) * len(rows), kind="refresh", stores=True)
        spans = tuple(self._ahead(places[row], 0) for row in rows)
        return CachePlan(tuple(rows), spans, "refresh", stores=True, unseen=self._unseen(places, rows))

    def _spans(self, place: Place) -> tuple[range, ...]:
        settings = self.settings
        before = place.first if settings.before is None else settings.before
        if place.within < settings.delay:
            before += place.last - place.first
        first = max(place.first - before, 0)
        if settings.after is None:
            return self._ahead(place, first)
        return (range(first, min(place.last + settings.after, place.end)),)

    def _ahead(self, place: Place, first: int) -> tuple[range, ...]:
        """From a column on, as far as the horizon reaches, and the row's last column."""
        hidden = self._hidden(place)
        if not hidden:
            return (range(first, place.end),)
        return range(first, hidden.start), range(hidden.stop, place.end)

    def _hidden(self, place: Place) -> range:
        last = min(place.last, place.end)
        return range(0) if self.settings.horizon is None else range(last + self.settings.horizon, place.end - 1)

    def _unseen(self, places: Sequence[Place], rows: Sequence[int]) -> tuple[range, ...]:
        hidden = tuple(self._hidden(places[row]) for row in rows)
        return hidden if any(hidden) else ()


class PrefixCache(WindowedCache):
    """Fast-dLLM's prefix cache: what lies before the block is reused, what lies behind it is fed."""

    window = Window(after=None)


class DualCache(WindowedCache):
    """Fast-dLLM's dual cache: all but the block is reused."""

    window = Window()


class VicinityCache(WindowedCache):
    """dInfer's refresh of the vicinity: the neighbours of the block are fed with it, and four first steps feed all."""

    window = Window(before=16, after=16, warmup=4)


class IntervalCache(WindowedCache):
    """Refresh at intervals, whatever the blocks are (in the manner of dLLM-Cache): all but the block is reused."""

    window = Window(at_blocks=False, interval=8, delay=1)
