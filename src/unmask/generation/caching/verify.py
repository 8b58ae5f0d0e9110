"""Compute anew only what has moved (dLLM-Cache, arXiv:2506.06295): the prompt rarely, of the answer a share per layer.

In most steps the whole answer is fed, and each layer computes the share of it anew whose values have moved most; at
intervals all of the answer is, and more rarely the whole row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from unmask.errors import ConfigError
from unmask.generation.caching import CachePlan, Place
from unmask.generation.options import GenerationOptions

# dLLM-Cache's own for LLaDA
ROW_INTERVAL, ANSWER_INTERVAL = 100, 7


class VerifyCache:
    """dLLM-Cache: of the answer, each layer computes anew what has moved most; at intervals, the answer, or the row."""

    block_causal: ClassVar[bool | None] = False

    def __init__(self, options: GenerationOptions) -> None:
        """Take the settings it needs.

        Raises:
            ConfigError: drift is to be measured, which needs the values of all that is fed.
        """
        if options.cache_drift is not None:
            raise ConfigError('cache "verify" looks at values layer by layer: leave cache_drift out, or use dual.')
        self.interval = options.cache_interval or ROW_INTERVAL
        self.answer_interval = options.cache_answer_interval or ANSWER_INTERVAL
        self.share = options.cache_share

    def plan(self, places: Sequence[Place], hides_later: bool) -> list[CachePlan]:
        """See `CachePolicy`. One forward for the rows fed whole, one for each length of answer and share."""
        del hides_later
        whole = [index for index, place in enumerate(places) if place.since is None or place.since >= self.interval]
        groups: dict[tuple[int, float], list[int]] = {}
        for index, place in enumerate(places):
            if index not in whole:
                is_due = (place.since or 0) % self.answer_interval == 0
                groups.setdefault((place.end - place.text, 1.0 if is_due else self.share), []).append(index)
        plans: list[CachePlan] = []
        if whole:
            # padding behind shorter rows is seen by nobody: all rows share their columns
            everything = range(max(places[row].end for row in whole))
            plans.append(CachePlan(tuple(whole), ((everything,),) * len(whole), "refresh", stores=True, share=1.0))
        for (_, share), rows in groups.items():
            spans = tuple((range(places[row].text, places[row].end),) for row in rows)
            plans.append(CachePlan(tuple(rows), spans, stores=True, share=share))
        return plans
