"""A regular language over token ids, and the ways through it: which tokens can stand where in a text of it.

Knows no tokenizer and no canvas. Letters in shapes: Q states; C classes of tokens, those of one class being the same to
the language. A set of states is a whole number whose bit q says whether state q is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from unmask.generation.canvas import on_host

# a masked position: any token that the language has there
ANY = -1
# what is remembered is forgotten when it has become so much: sets of states, bytes of masks
_MOST_SETS, _MOST_BYTES = 50_000, 2**26


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton whose letters are tokens; state 0 is where every text begins.

    Attributes:
        next_QC: int64; the state after a token of class c in state q, -1 where no text goes on with it.
        class_V: int64; the class of each token id.
        finals: the states in which a text may end.
    """

    next_QC: Int[Tensor, "Q C"]
    class_V: Int[Tensor, " V"]
    finals: tuple[int, ...]
    _paths: dict[Any, Paths] = field(default_factory=lambda: dict[Any, Paths](), repr=False)

    def paths(self, stop_token_ids: Sequence[int], never: Sequence[int]) -> Paths:
        """The ways through it, kept for the next time.

        Args:
            stop_token_ids: after a text, nothing but these follows; none: a text is as long as its place.
            never: ids that are not written.
        """
        key = tuple(stop_token_ids), tuple(never)
        if key not in self._paths:
            self._paths[key] = Paths(self, *key)
        return self._paths[key]


class Allowed(NamedTuple):
    """The tokens that some text of the language has at a position.

    Attributes:
        token_V: bool.
        forced: the only one, or one of those that end the text where there are no others: writing it leaves all texts
            possible that were. -1: there is a choice.
    """

    token_V: Bool[Tensor, " V"]
    forced: int


class Paths:
    """Steps through an automaton, forwards and backwards, and what lies between two sets of states.

    Attributes:
        start, finals: sets of states: where texts begin, and where they, or the stop tokens after them, may end.
    """

    def __init__(self, automaton: Automaton, stop_token_ids: Sequence[int], never: Sequence[int]) -> None:
        states, classes = automaton.next_QC.shape
        vocab, end = len(automaton.class_V), states
        # one more class for what is never written, one for stop tokens; one more state, that after a stop token
        self._stop_class, nothing = classes + 1, classes
        self._class_V = automaton.class_V.clone()
        stops = [token for token in stop_token_ids if token not in never and token < vocab]
        self._class_V[[token for token in (*never, *stop_token_ids) if token < vocab]] = nothing
        self._class_V[stops] = self._stop_class
        self._count_C = torch.bincount(self._class_V, minlength=classes + 2)
        self._next_QC = pad(automaton.next_QC, (0, 2, 0, 1), value=-1)
        self._next_QC[[*automaton.finals, end], self._stop_class] = end
        self.start = 1
        self.finals = sum(1 << state for state in (*automaton.finals, end))
        self._is_text_C = (self._count_C > 0) & (torch.arange(classes + 2) < classes)
        self._classes: list[int] = on_host(self._class_V)
        # [without stop tokens, with them] -> for each state, those after it and those before it
        self._ahead = [self._neighbours(self._is_text_C), self._neighbours(self._count_C > 0)]
        self._behind = [_turned(ahead) for ahead in self._ahead]
        self._columns: dict[int, list[int]] = {}
        self._sets: dict[tuple[int, int, bool], int] = {}
        self._allowed: dict[tuple[int, int, bool, torch.device], Allowed] = {}

    def _neighbours(self, among_C: Bool[Tensor, " C"]) -> list[int]:
        return [
            sum(1 << state for state in set(on_host(row)) if state >= 0) for row in self._next_QC[:, among_C].unbind(0)
        ]

    def after(self, states: int, token: int, *, may_stop: bool = True) -> int:
        """The states after a token, of `ANY` after all that the language knows; `may_stop`: stop tokens among them."""
        return self._remembered(states, self._letter(token, may_stop), True)

    def before(self, states: int, token: int, *, may_stop: bool = True) -> int:
        """The states from which a token leads into these."""
        return self._remembered(states, self._letter(token, may_stop), False)

    def _letter(self, token: int, may_stop: bool) -> int:
        """The class of a token; -2 for all of text, -3 for stop tokens as well."""
        if token == ANY:
            return -2 - may_stop
        number = self._classes[token]
        return number if may_stop or number != self._stop_class else self._stop_class - 1

    def allowed(self, before: int, after: int, device: torch.device, *, may_stop: bool = True) -> Allowed:
        """The tokens that lead from one of the states `before` into one of those `after`."""
        key = before, after, may_stop, device
        if key not in self._allowed:
            if len(self._allowed) * len(self._class_V) >= _MOST_BYTES:
                self._allowed.clear()
            self._allowed[key] = self._between(before, after, device, may_stop)
        return self._allowed[key]

    def shortest(self) -> int | None:
        """Tokens of the shortest text; None: there is no text."""
        seen, length = self.start, 0
        while not seen & self.finals:
            wider = seen | self.after(seen, ANY, may_stop=False)
            if wider == seen:
                return None
            seen, length = wider, length + 1
        return length

    def _between(self, before: int, after: int, device: torch.device, may_stop: bool) -> Allowed:
        # -1, no state, is the last of them
        is_after_Q = torch.zeros(len(self._next_QC) + 1, dtype=torch.bool)
        is_after_Q[members(after)] = True
        allowed_C = is_after_Q[self._next_QC[members(before)]].any(0) & (self._count_C > 0)
        if not may_stop:
            allowed_C[self._stop_class] = False
        count = int(self._count_C[allowed_C].sum())
        is_end = count > 0 and not allowed_C[: self._stop_class].any()
        token_V = allowed_C[self._class_V]
        return Allowed(token_V.to(device), int(token_V.long().argmax()) if count == 1 or is_end else -1)

    def _remembered(self, states: int, by: int, is_ahead: bool) -> int:
        """Neighbours of a set by a `_letter`."""
        key = states, by, is_ahead
        found = self._sets.get(key)
        if found is None:
            if len(self._sets) >= _MOST_SETS:
                self._sets.clear()
            found = self._sets[key] = self._step(states, by, is_ahead)
        return found

    def _step(self, states: int, by: int, is_ahead: bool) -> int:
        found = 0
        if by < 0:
            table = (self._ahead if is_ahead else self._behind)[-2 - by]
            for state in members(states):
                found |= table[state]
            return found
        column = self._column(by)
        if is_ahead:
            for state in members(states):
                found |= 1 << column[state] if column[state] >= 0 else 0
            return found
        return sum(1 << state for state, into in enumerate(column) if into >= 0 and states >> into & 1)

    def _column(self, number: int) -> list[int]:
        if number not in self._columns:
            self._columns[number] = on_host(self._next_QC[:, number])
        return self._columns[number]


def members(states: int) -> list[int]:
    """The states in a set, ascending."""
    return [state for state, bit in enumerate(reversed(f"{states:b}")) if bit == "1"]


def _turned(ahead: Sequence[int]) -> list[int]:
    """From the states after each state to those before each."""
    behind = [0] * len(ahead)
    for state, after in enumerate(ahead):
        for other in members(after):
            behind[other] |= 1 << state
    return behind
