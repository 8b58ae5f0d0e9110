"""The seam between the loop and what is reused from one forward to the next; one file per policy.

A policy sees where each row stands, as host numbers, and answers which columns of which rows are fed. Keys and values
are kept by `models/kv_cache.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from unmask.generation.options import GenerationOptions

ForwardKind = Literal["denoise", "commit", "refresh"]


class Place(NamedTuple):
    """Where a row stands.

    Attributes:
        first, last: columns of its active block, `last` not included; the row may end before.
        end: where the row ends.
        within: steps made in the block.
        total: steps made in all.
        since: steps made since the last forward that fed the whole row; None: there was none.
        stored: columns from 0 on whose keys and values are final.
        drift: by what share of their length the values of unchanged tokens have moved since then, step by step, in all;
            None: not measured.
        text: column where what is written begins.
    """

    first: int
    last: int
    end: int
    within: int
    total: int
    since: int | None
    stored: int
    drift: float | None = None
    text: int = 0


@dataclass(frozen=True)
class CachePlan:
    """One forward.

    Attributes:
        rows: which rows take part, as indices into the places.
        spans: for each of them, the columns fed, as ascending ranges; the first range holds the active block.
        kind: under which name the forward is counted.
        stores: keys and values of what is fed are kept, and what was kept is seen.
        settled: columns from 0 on that are final after this forward, for each row.
        unseen: for each row, columns that nobody sees; empty: none.
        share: of what is fed, the share that each layer computes anew, where what it is fed has moved most; below 1 it
            is for columns that were fed with a share before. None: all, and no share will be asked for later.
    """

    rows: tuple[int, ...]
    spans: tuple[tuple[range, ...], ...]
    kind: ForwardKind = "denoise"
    stores: bool = False
    settled: tuple[int, ...] = ()
    unseen: tuple[range, ...] = ()
    share: float | None = None


@runtime_checkable
class CachePolicy(Protocol):
    """Decides, before each forward, what is fed and what is reused.

    Attributes:
        block_causal: the policy is exact where no block sees a later one, and of no use elsewhere; None: it never
            reuses anything, so that it serves both.
    """

    block_causal: ClassVar[bool | None]

    def __init__(self, options: GenerationOptions) -> None:
        """Take the settings it needs."""
        ...

    def plan(self, places: Sequence[Place], hides_later: bool) -> list[CachePlan]:
        """Forwards in which every row takes part exactly once."""
        ...
