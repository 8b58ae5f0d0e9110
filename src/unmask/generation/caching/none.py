"""No cache: every forward feeds all that may be seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from unmask.generation.caching import CachePlan, Place
from unmask.generation.options import GenerationOptions


class NoCache:
    """Plans a plain forward of all rows, always."""

    block_causal: ClassVar[bool | None] = None

    def __init__(self, options: GenerationOptions) -> None:
        del options

    def plan(self, places: Sequence[Place], hides_later: bool) -> list[CachePlan]:
        """See `CachePolicy`. Columns behind a row's active block are seen by nobody, if blocks hide later ones."""
        last = max(min(place.last, place.end) if hides_later else place.end for place in places)
        return [CachePlan(tuple(range(len(places))), ((range(last),),) * len(places))]
