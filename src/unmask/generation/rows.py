"""What the loop remembers of each row on the host: its place, its figures, its commits. Knows no tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from unmask.generation.automaton import Automaton
from unmask.generation.caching import ForwardKind, Place
from unmask.generation.trace import Commit, Forwards

Ends = Callable[[Sequence[int]], bool]


class Waiting(NamedTuple):
    """A prompt that asks to be continued: its ids, its seed, what ends it beside stop tokens, its language, and its
    number in the request where that is not its place among those that are handed over.
    """

    token_ids: Sequence[int]
    seed: int
    ends: Ends | None = None
    automaton: Automaton | None = None
    number: int | None = None


class Gaps(NamedTuple):
    """A row that asks to be filled in: its ids, where a token is to be written, its seed, and its language."""

    token_ids: Sequence[int]
    editable: Sequence[bool]
    seed: int
    automaton: Automaton | None = None


@dataclass
class Row:
    """A row under way.

    Attributes:
        number: of the row in the request. slot: its place among those under way, which a later row may take over.
        seed: of its random numbers.
        text: column where what is written begins.
        start: column where its first block begins. end: where the row ends.
        blocks: numbers of the blocks that have masks, ascending.
        ends: asked with the tokens written so far, those before the first mask; True ends the row. None: not asked.
        masked: the positions masked at the start, ascending. token_ids: the row at the start, where a trace is wanted.
        automaton: the language of what is written; of each run of masks, where a row is filled in. None: any text.
        turn: index into `blocks` of the active one.
        within, total, since, stored, drift: see `caching.Place`.
        is_measured: its length was found; where lengths are open, nothing is written before.
        growths: how often it grew.
    """

    number: int
    slot: int
    seed: int
    text: int
    start: int
    end: int
    blocks: Sequence[int]
    ends: Ends | None = None
    masked: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    automaton: Automaton | None = None
    turn: int = 0
    within: int = 0
    total: int = 0
    since: int | None = None
    stored: int = 0
    drift: float | None = None
    is_measured: bool = False
    growths: int = 0
    forwards: Counter[ForwardKind] = field(default_factory=lambda: Counter[ForwardKind]())
    positions: int = 0
    commits: list[Commit] = field(default_factory=lambda: list[Commit]())

    @property
    def block(self) -> int:
        """Number of the active block."""
        return self.blocks[self.turn]

    def place(self, block_size: int) -> Place:
        """Where it stands, for the cache."""
        first = self.start + self.block * block_size
        return Place(
            first=first,
            last=first + block_size,
            end=self.end,
            within=self.within,
            total=self.total,
            since=self.since,
            stored=self.stored,
            drift=self.drift,
            text=self.text,
        )

    def count(self, kind: ForwardKind, positions: int) -> None:
        """Count a forward."""
        self.forwards[kind] += 1
        self.positions += positions

    def step(self, is_open: bool) -> bool:
        """Count a step; with nothing left to do in its block, go on to the next. Whether there is one."""
        self.within += 1
        self.total += 1
        if not is_open:
            self.within = 0
            self.turn += 1
        return self.turn < len(self.blocks)

    def grow(self, columns: int, masked: Sequence[int], block_size: int) -> None:
        """Take in that it was made longer, `masked` being its masks now; its block begins anew."""
        self.end += columns
        self.growths += 1
        self.blocks = sorted({(place - self.start) // block_size for place in masked})
        self.turn = self.within = 0

    def totals(self) -> Forwards:
        """The forwards counted."""
        return Forwards(self.forwards["denoise"], self.forwards["commit"], self.forwards["refresh"])
