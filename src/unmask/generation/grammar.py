"""Rows whose text has to belong to a regular language: what may be proposed, and what may be written together.

Positions are filled in any order, so each is judged by all that is written on both sides and by how many masks lie in
between: a token may be proposed where some completion of the row has it, and only there. Tokens that are possible one
by one need not be so together; of those that a strategy chose, as many are written as leave a completion, the surest
first. What the language leaves no choice about is written at once. Knows no strategy, no model and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from unmask.errors import ConfigError
from unmask.generation.automaton import ANY, Allowed, Automaton, Paths
from unmask.generation.canvas import Canvas, on_host
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.rows import Row
from unmask.generation.strategy import Transfer


@dataclass
class Run:
    """A stretch of a row that is one text of the language.

    Attributes:
        first: its first column.
        tokens: what stands there; `ANY` where it is masked.
        paths: through the language.
        least: no stop token stands among the first so many.
    """

    first: int
    tokens: list[int]
    paths: Paths
    least: int = 0

    def is_possible(self) -> bool:
        """Whether some text of the language has all that is written."""
        states, paths = self.paths.start, self.paths
        for place, token in enumerate(self.tokens):
            states = paths.after(states, token, may_stop=place >= self.least)
        return bool(states & paths.finals)

    def sides(self) -> tuple[list[int], list[int]]:
        """For each place, the states that what is before it leads to, and those from which what follows can end."""
        paths, count = self.paths, len(self.tokens)
        before, after = [paths.start], [paths.finals]
        for place in range(count - 1):
            before.append(paths.after(before[-1], self.tokens[place], may_stop=place >= self.least))
        for place in reversed(range(1, count)):
            after.append(paths.before(after[-1], self.tokens[place], may_stop=place >= self.least))
        return before, after[::-1]


@dataclass
class Text:
    """The runs of a row, and whether its last step wrote less than the strategy chose."""

    number: int
    runs: list[Run]
    is_cut: bool = False

    def show(self, first: int, tokens: Sequence[int]) -> None:
        """Take in what stands in a block; what is in no run does not matter."""
        for run in self.runs:
            low, high = max(first, run.first), min(first + len(tokens), run.first + len(run.tokens))
            if low < high:
                run.tokens[low - run.first : high - run.first] = tokens[low - first : high - first]

    def run_at(self, column: int) -> Run:
        """The run that a column belongs to."""
        return next(run for run in self.runs if run.first <= column < run.first + len(run.tokens))

    def tried(self, column: int, token: int) -> bool:
        """Write a token if that leaves a completion."""
        run = self.run_at(column)
        place = column - run.first
        before, run.tokens[place] = run.tokens[place], token
        if run.is_possible():
            return True
        run.tokens[place] = before
        return False


@dataclass
class Look:
    """The rows of a step, shown to the grammar.

    Attributes:
        texts: of the rows; None: it has no language.
        firsts: where their blocks begin.
        blocks: what these hold.
        forced: for each row, the masks of its block at which the language leaves no choice, and what it has there.
    """

    texts: list[Text | None]
    firsts: Sequence[int]
    blocks: list[list[int]]
    forced: list[dict[int, int]]


class Grammar:
    """Keeps what is written to the languages of the rows that have one."""

    def __init__(self, options: GenerationOptions, stop_token_ids: Sequence[int], never: Sequence[int]) -> None:
        self.options, self.stop_token_ids, self.never = options, tuple(stop_token_ids), tuple(never)
        self.is_asked = options.regex is not None or options.json_schema is not None
        self._texts: dict[int, Text] = {}

    def begin(self, row: Row, *, is_whole: bool) -> None:
        """Take a row in.

        Raises:
            ConfigError: no text of its language fits, or the options ask for a language and the row has none.
        """
        self._texts.pop(row.slot, None)
        if row.automaton is None:
            if self.is_asked:
                raise ConfigError(
                    "regex and json_schema are about text, which token ids alone are not: `DiffusionLM` makes an "
                    "automaton of them. Give rows one, or leave both out."
                )
            return
        paths = row.automaton.paths(self.stop_token_ids, self.never)
        least = 0 if is_whole else self.options.min_new_tokens
        text = Text(row.number, [Run(first, [ANY] * count, paths, least) for first, count in runs_of(row.masked)])
        for run in text.runs:
            if not run.is_possible():
                raise ConfigError(_misfit(run, row.number, is_whole))
        self._texts[row.slot] = text

    def look(self, rows: Sequence[Row], firsts: Sequence[int], window: Canvas) -> Look | None:
        """Take in how the rows' active blocks stand; None: none of the rows has a language."""
        texts = [self._texts.get(row.slot) for row in rows]
        if not any(texts):
            return None
        blocks: list[list[int]] = on_host(window.tokens_BL.masked_fill(window.is_masked_BL, ANY))
        for text, first, tokens in zip(texts, firsts, blocks, strict=True):
            if text is not None:
                text.show(first, tokens)
        return Look(texts, firsts, blocks, [dict[int, int]() for _ in texts])

    def masked(self, look: Look, asked_BW: Bool[Tensor, "B W"], logits_nV: Float[Tensor, "n V"]) -> Tensor:
        """The logits at the positions asked for, -inf at tokens that no completion has there."""
        found: list[Allowed | None] = []
        for index, flags in enumerate(on_host(asked_BW)):
            text, columns = look.texts[index], [look.firsts[index] + place for place, flag in enumerate(flags) if flag]
            here = [None] * len(columns) if text is None else self._allowed(text, columns, logits_nV.device)
            for column, one in zip(columns, here, strict=True):
                self._note(look, index, column - look.firsts[index], one)
            found += here
        every_V = torch.ones(logits_nV.shape[1], dtype=torch.bool, device=logits_nV.device)
        masks = {id(one): every_V if one is None else _wide(one.token_V, len(every_V)) for one in found}
        number = {key: place for place, key in enumerate(masks)}
        index_n = torch.tensor([number[id(one)] for one in found], dtype=torch.int64, device=logits_nV.device)
        return logits_nV.masked_fill(~torch.stack(list(masks.values()))[index_n], -torch.inf) if found else logits_nV

    def _note(self, look: Look, index: int, place: int, one: Allowed | None) -> None:
        """Remember where there is no choice; tokens that are to come last are not forced."""
        is_forced = one is not None and one.forced >= 0 and one.forced not in self.options.begin_suppress_tokens
        if one is not None and is_forced and look.blocks[index][place] == ANY:
            look.forced[index][place] = one.forced

    def _allowed(self, text: Text, columns: Sequence[int], device: torch.device) -> list[Allowed]:
        sides = {id(run): run.sides() for run in {id(run): run for run in map(text.run_at, columns)}.values()}
        found: list[Allowed] = []
        for column in columns:
            run = text.run_at(column)
            (before, after), place = sides[id(run)], column - run.first
            found.append(run.paths.allowed(before[place], after[place], device, may_stop=place >= run.least))
        return found

    def free(
        self, look: Look, asked_BW: Bool[Tensor, "B W"], logits_nV: Float[Tensor, "n V"]
    ) -> tuple[Bool[Tensor, "B W"], Float[Tensor, "m V"]]:
        """What was asked for without the masks at which the language leaves no choice, and the logits there."""
        if not any(look.forced):
            return asked_BW, logits_nV
        is_free_BW = torch.ones_like(asked_BW)
        rows = [index for index, found in enumerate(look.forced) for _ in found]
        is_free_BW[rows, [place for found in look.forced for place in found]] = False
        return asked_BW & is_free_BW, logits_nV[is_free_BW[asked_BW]]

    def settled(self, look: Look, proposal: Proposal, transfer: Transfer) -> tuple[Proposal, Transfer]:
        """What is written of what a strategy chose, and with it what the language leaves no choice about.

        Where all of it together leaves no completion, nothing is masked again, in this step and in the next, and the
        tokens are taken one by one while they leave one: those for masks before those for filled positions, the surest
        first. The first of them always does.
        """
        predicted_BL, log_prob_BL = proposal.predicted_BL.clone(), proposal.log_prob_BL.clone()
        for index, found in enumerate(look.forced):
            predicted_BL[index, list(found)] = predicted_BL.new_tensor(list(found.values()))
            log_prob_BL[index, list(found)] = 0.0
        proposal = replace(proposal, predicted_BL=predicted_BL, log_prob_BL=log_prob_BL)
        remask_BL = transfer.remask_BL if transfer.remask_BL is not None else torch.zeros_like(transfer.write_BL)
        write, remask, tokens = on_host(torch.stack([transfer.write_BL, remask_BL, proposal.predicted_BL]).long())
        log_probs: list[list[float]] = on_host(proposal.log_prob_BL)
        for index, text in enumerate(look.texts):
            if text is None:
                continue
            wanted = _Wanted(text, look.firsts[index], look.blocks[index], tokens[index], log_probs[index])
            done, backs = wanted.settled(places(write[index]), places(remask[index]), set(look.forced[index]))
            write[index] = [place in done for place in range(len(write[index]))]
            remask[index] = [place in backs for place in range(len(remask[index]))]
        device = transfer.write_BL.device
        write_BL = torch.tensor(write, dtype=torch.bool, device=device)
        if transfer.remask_BL is not None:
            transfer = replace(transfer, remask_BL=torch.tensor(remask, dtype=torch.bool, device=device))
        return proposal, replace(transfer, write_BL=write_BL)


@dataclass
class _Wanted:
    """What is proposed for a block of a text; places count from the block's first column."""

    text: Text
    first: int
    before: Sequence[int]
    tokens: Sequence[int]
    log_probs: Sequence[float]

    def is_masked(self, place: int) -> bool:
        return self.before[place] == ANY

    def settled(self, writes: set[int], backs: set[int], forced: set[int]) -> tuple[set[int], set[int]]:
        """What is written and what is masked again of what was chosen; what is forced is written with it."""
        nothing = set[int]()
        backs = nothing if self.text.is_cut else backs
        self.text.is_cut = not self._together(writes | forced, backs)
        return (self._one_by_one(writes, forced), nothing) if self.text.is_cut else (writes | forced, backs)

    def _together(self, writes: set[int], backs: set[int]) -> bool:
        """Write all of them, if that leaves a completion."""
        after = [self.tokens[place] if place in writes else token for place, token in enumerate(self.before)]
        self.text.show(self.first, [ANY if place in backs else token for place, token in enumerate(after)])
        if all(run.is_possible() for run in self.text.runs):
            return True
        self.text.show(self.first, self.before)
        return False

    def _one_by_one(self, writes: set[int], forced: set[int]) -> set[int]:
        """Write those that leave a completion, one after the other; which they were."""
        rest = sorted(writes - forced, key=lambda place: (not self.is_masked(place), -self.log_probs[place], place))
        return {place for place in (*sorted(forced), *rest) if self.text.tried(self.first + place, self.tokens[place])}


def places(flags: Sequence[int]) -> set[int]:
    """Where a list is true."""
    return {place for place, flag in enumerate(flags) if flag}


def has_text_of(automaton: Automaton, lengths: Sequence[int], never: Sequence[int]) -> bool:
    """Whether the language has texts of exactly so many tokens each."""
    paths = automaton.paths((), never)
    return all(Run(0, [ANY] * length, paths).is_possible() for length in lengths)


def runs_of(columns: Sequence[int]) -> list[tuple[int, int]]:
    """First column and length of each stretch of neighbouring columns; they ascend."""
    found: list[tuple[int, int]] = []
    for column in columns:
        if found and sum(found[-1]) == column:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((column, 1))
    return found


def _wide(token_V: Bool[Tensor, " V"], words: int) -> Bool[Tensor, " W"]:
    """A model may have more logits than the tokenizer has ids; these are never allowed."""
    return pad(token_V, (0, words - len(token_V)))


def _misfit(run: Run, number: int, is_whole: bool) -> str:
    count, shortest = len(run.tokens), run.paths.shortest()
    if shortest is None:
        return "no text of the grammar can be written with the tokens that are left. Suppress fewer tokens."
    if is_whole:
        return (
            f"row {number}: no text of the grammar has exactly {count} tokens, as many as the blank at position "
            f"{run.first}; the shortest has {shortest}. Give the blank another length, or several: [MASK:1-16]."
        )
    if shortest > count:
        return (
            f"row {number}: the shortest text of the grammar has {shortest} tokens, and there is room for {count}. "
            "Raise max_new_tokens."
        )
    return (
        f"row {number}: no text of the grammar has at least {run.least} and at most {count} tokens. "
        "Lower min_new_tokens or raise max_new_tokens."
    )
