"""Shows in the terminal how a canvas fills up: masks as dim blocks, fresh tokens bright, older ones plain.

`render` is a pure function of a state; `watch` drives it from a stream of commits, animated on a terminal and as a few
plain frames elsewhere. Knows ids and a function that decodes them, no model.
"""

from __future__ import annotations

import os
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from unmask.generation.player import REPLACEMENT, Decode, pieces

STYLES = {
    "given": "dim",
    "masked": "bright_black",
    "fresh": "bold green",
    "unsure": "bold yellow",
    "recent": "green",
    "written": "",
    "sure": "green",
    "likely": "yellow",
    "unlikely": "red",
}
SURE, UNSURE = 0.9, 0.5  # probabilities: from the first on a token is sure, below the second it is not
RECENT = 3  # steps that a token is recent
Colors = Literal["age", "confidence"]
FRAMES = 5  # of a canvas where nothing can be animated
JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"  # between letters of Persian, between parts of emoji
PER_MASK = 2  # columns that a masked position takes


class Event(Protocol):
    """What a generation reports; `unmask.generation.trace.Commit` is one."""

    @property
    def row(self) -> int: ...
    @property
    def positions(self) -> tuple[int, ...]: ...
    @property
    def token_ids(self) -> tuple[int, ...]: ...
    @property
    def confidences(self) -> tuple[float, ...]: ...
    @property
    def remasked(self) -> tuple[int, ...]: ...


class Stream(Protocol):
    """A generation under way; `unmask.lm.TextStream` is one."""

    def __iter__(self) -> Iterator[Any]: ...
    def canvas(self, row: int = 0) -> list[int | None]: ...


@dataclass(frozen=True)
class CanvasState:
    """One row at one moment.

    Attributes:
        token_ids: None where masked.
        given: positions that were there from the start.
        fresh: position -> probability, of the tokens written last.
        first: position from which the row is shown; the prompt of a chat is left out.
        past: position -> (steps since, probability), of the tokens written before.
    """

    token_ids: tuple[int | None, ...]
    given: frozenset[int]
    fresh: dict[int, float]
    first: int = 0
    past: dict[int, tuple[int, float]] = field(default_factory=dict)

    @classmethod
    def start(cls, token_ids: Sequence[int | None], first: int = 0) -> CanvasState:
        """The state before the first step: what is not masked is given."""
        given = frozenset(place for place, token in enumerate(token_ids) if token is not None)
        return cls(tuple(token_ids), given, {}, first)

    def after(self, event: Event) -> CanvasState:
        """The state after one step."""
        tokens = list(self.token_ids)
        # a row may grow
        tokens += [None] * (max((*event.positions, *event.remasked), default=0) + 1 - len(tokens))
        for place in event.remasked:
            tokens[place] = None
        for place, token in zip(event.positions, event.token_ids, strict=True):
            tokens[place] = token
        return replace(self, token_ids=tuple(tokens), fresh=dict(zip(event.positions, event.confidences, strict=True)))

    def aged(self, steps: int = 1) -> CanvasState:
        """The state some steps later, nothing having been written."""
        past = {place: (age + steps, chance) for place, (age, chance) in self.past.items()}
        return replace(self, fresh={}, past=past | {place: (steps, chance) for place, chance in self.fresh.items()})

    @property
    def written(self) -> int:
        """How many positions there are beside the given ones."""
        return len(self.token_ids) - len(self.given)

    @property
    def masked(self) -> int:
        """How many positions are still masked."""
        return sum(token is None for token in self.token_ids)


@dataclass(frozen=True)
class Look:
    """How to draw.

    Attributes:
        decode: ids to text, special tokens kept.
        special_ids: drawn as one dot each.
        mask: what a masked position looks like, a column of it.
        colors: what the colour of a written token tells, its age or how probable it was.
    """

    decode: Decode
    special_ids: frozenset[int] = frozenset()
    mask: str = "░"
    colors: Colors = "age"


class Glyph(NamedTuple):
    """A character, or a masked position, that a line is not broken within."""

    text: str
    kind: str


def render(state: CanvasState, look: Look, width: int, height: int | None = None) -> Text:
    """The row as styled text, wrapped to `width` columns; of more than `height` lines, those being written."""
    lines = _cropped(wrap(list(glyphs(state, look)), max(width, PER_MASK)), height)
    text = Text(no_wrap=True)
    for number, line in enumerate(lines):
        text.append("\n" if number else "")
        for glyph in line:
            text.append(glyph.text, STYLES[glyph.kind])
    return text


def glyphs(state: CanvasState, look: Look) -> Iterator[Glyph]:
    """The characters of a row in order; neighbouring tokens are decoded together, since one letter may span several."""
    run: list[int] = []
    for place in range(state.first, len(state.token_ids) + 1):
        token = state.token_ids[place] if place < len(state.token_ids) else None
        if token is not None and token not in look.special_ids:
            run.append(place)
            continue
        yield from _run(state, look, run)
        run = []
        if place < len(state.token_ids):
            special = Glyph("·", "given")
            yield Glyph(look.mask * PER_MASK, "masked") if token is None else special


def _run(state: CanvasState, look: Look, places: list[int]) -> Iterator[Glyph]:
    ids = [state.token_ids[place] for place in places]
    for place, piece in zip(places, pieces(ids, look.decode), strict=True):  # type: ignore[arg-type]
        kind = _kind(state, place, look.colors)
        for letter in piece:
            yield Glyph(harmless(letter), kind)


def _kind(state: CanvasState, place: int, colors: Colors) -> str:
    if place in state.fresh:
        return "fresh" if state.fresh[place] >= UNSURE else "unsure"
    if place in state.given:
        return "given"
    age, chance = state.past.get(place, (RECENT + 1, 1.0))
    if colors == "age":
        return "recent" if age <= RECENT else "written"
    return "sure" if chance >= SURE else "likely" if chance >= UNSURE else "unlikely"


def harmless(letter: str) -> str:
    """The letter, but no control character except a newline: a model must not move the cursor."""
    if letter == "\n" or letter in JOINERS:
        return letter
    if letter == "\t":
        return " "
    return REPLACEMENT if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") else letter


def wrap(glyphs: list[Glyph], width: int) -> list[list[Glyph]]:
    """Lines of at most `width` columns, broken after a space, beside a mask or a wide letter, or else anywhere."""
    lines: list[list[Glyph]] = [[]]
    used = 0
    for glyph in glyphs:
        if glyph.text == "\n":
            lines.append([])
            used = 0
            continue
        size = cell_len(glyph.text)
        if used + size > width:
            if glyph.text == " ":
                # A space that does not fit is the break itself.
                lines.append([])
                used = 0
                continue
            line = lines[-1]
            cut = len(line) if _breaks_before(glyph) else _last_break(line)
            lines[-1], tail = line[:cut], line[cut:]
            lines.append(tail)
            used = sum(cell_len(other.text) for other in tail)
        lines[-1].append(glyph)
        used += size
    return lines


def _breaks_before(glyph: Glyph) -> bool:
    return glyph.kind == "masked" or cell_len(glyph.text) > 1


def _last_break(line: list[Glyph]) -> int:
    for index in range(len(line) - 1, 0, -1):
        if line[index].text == " " or _breaks_before(line[index]):
            return index + 1
    return len(line)


def _cropped(lines: list[list[Glyph]], height: int | None) -> list[list[Glyph]]:
    if height is None or len(lines) <= height:
        return lines
    fresh = [number for number, line in enumerate(lines) if any(glyph.kind in ("fresh", "unsure") for glyph in line)]
    last = min(len(lines), max(height, (fresh[-1] if fresh else 0) + 1 + height // 3))
    return lines[last - height : last]


def can_animate(console: Console) -> bool:
    """Whether frames may be drawn over each other: a terminal that can, and a user who did not forbid it."""
    return console.is_terminal and not console.is_dumb_terminal and not os.environ.get("NO_COLOR")


def mask_for(console: Console) -> str:
    """A block, or an underscore where the terminal's encoding has none."""
    try:
        "░·".encode(console.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "_"
    return "░"


def watch(
    stream: Stream,
    look: Look,
    console: Console,
    *,
    firsts: Sequence[int] = (0,),
    keep: bool = False,
    pause: float = 0.0,
) -> None:
    """Drain `stream`, showing its rows as they fill.

    Args:
        stream: yields commits; every row that `firsts` names is shown.
        look: how.
        console: where.
        firsts: of each row, the position it is shown from.
        keep: leave the finished canvas on the screen.
        pause: seconds that a frame stays at least.
    """
    look = replace(look, mask=mask_for(console))
    states = [CanvasState.start(stream.canvas(row), first) for row, first in enumerate(firsts)]
    if can_animate(console):
        _animate(stream, states, look, console, keep=keep, pause=pause)
    else:
        _print_frames(stream, states, look, console)


def tokenizer_look(tokenizer: Any, colors: Colors = "age") -> Look:
    """The look of a Hugging Face tokenizer's text."""

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    return Look(decode, frozenset(tokenizer.all_special_ids), colors=colors)


def _animate(
    stream: Stream, states: list[CanvasState], look: Look, console: Console, *, keep: bool, pause: float
) -> None:
    began = time.monotonic()
    height = max(1, (console.height - 2) // len(states) - 1)

    def frame(step: int) -> Text:
        rows = [render(state, look, console.width - 1, height) for state in states]
        left, whole = sum(state.masked for state in states), sum(state.written for state in states)
        seconds = max(time.monotonic() - began, 1e-9)
        status = f"step {step}   {whole - left}/{whole} tokens   {(whole - left) / seconds:.0f} tokens/s"
        return Text("\n").join([*rows, Text(status, "dim")])

    number = 0
    with Live(frame(0), console=console, auto_refresh=False, transient=not keep) as live:
        for number, _ in _steps(stream, states):
            live.update(frame(number), refresh=True)
            if pause:
                time.sleep(pause)
        for row, state in enumerate(states):
            states[row] = state.aged(RECENT + 1)
        live.update(frame(number), refresh=True)


def _print_frames(stream: Stream, states: list[CanvasState], look: Look, console: Console) -> None:
    """The canvas before the first step, some frames in between, and the finished one."""
    whole = sum(state.masked for state in states)
    shown = number = 0
    due = whole

    def frame(left: int) -> None:
        console.print(f"-- step {number}, {whole - left}/{whole} tokens", style="dim", highlight=False)
        for state in states:
            console.print(Text(render(state, look, console.width - 1).plain), soft_wrap=True)

    frame(whole)
    due -= whole / FRAMES
    for number, left in _steps(stream, states):  # noqa: B007  (`frame` reads it)
        every = sum(state.written for state in states)
        whole, due = every, due + every - whole  # rows may have grown
        if left <= due:
            frame(left)
            shown, due = number, min(due, left) - whole / FRAMES
    if shown != number:
        frame(sum(state.masked for state in states))


def _steps(stream: Iterable[Any], states: list[CanvasState]) -> Iterator[tuple[int, int]]:
    """Apply the commits to `states`; after each step its number, from 1, and how many masks are left."""
    step = None
    for event in stream:
        if step is not None and event.step != step:
            yield step + 1, sum(state.masked for state in states)
        if event.step != step:
            for row, state in enumerate(states):
                states[row] = state.aged()
        step = event.step
        if event.row < len(states):
            states[event.row] = states[event.row].after(event)
    if step is not None:
        yield step + 1, sum(state.masked for state in states)
