"""A trace as a moving picture, for pages that play nothing else. Needs Pillow, from the extra `gif`."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from unmask.cli.trace_fonts import Fonts
from unmask.generation.player import Recording

WIDTH, MARGIN, SIZE, LEADING = 960, 28, 18, 30
MOST_FRAMES = 90
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
SECONDS, LAST_SECONDS = 8.0, 2.5
PAPER, INK, SOFT, MASK = (255, 255, 255), (28, 29, 33), (120, 123, 132), (228, 226, 220)


@dataclass(frozen=True)
class Cell:
    """A token's place on the picture.

    Attributes:
        x, y, width: where it stands. text: in one line.
        written: the step that wrote it, None where it is masked, -1 where it was given.
    """

    x: float
    y: float
    width: float
    text: str
    written: int | None


class Story:
    """What stood at each place of a row after each step.

    Args:
        row: as `Recording.to_dict` has it. tokens: id, as text -> its text.
    """

    def __init__(self, row: dict[str, Any], tokens: dict[str, str]) -> None:
        self._tokens, self._pieces = tokens, row["pieces"]
        self._masked = set(row["masked"])
        # of each place: (step, id or None where it became masked), in order
        self._events: list[list[tuple[int, int | None]]] = [[] for _ in row["token_ids"]]
        self._final = list(row["token_ids"])
        for commit in row["commits"]:
            for place, token in zip(commit["positions"], commit["token_ids"], strict=True):
                self._events[place].append((commit["step"], token))
                self._final[place] = token
            for place in commit["remasked"]:
                self._events[place].append((commit["step"], None))
        self.steps = max((commit["step"] + 1 for commit in row["commits"]), default=0)

    def at(self, step: int) -> Iterator[tuple[str, int | None]]:
        """Each token's text and the step that wrote it, after `step` steps; masks have the text of the end.

        What was never written is left out.
        """
        for place, piece in enumerate(self._pieces):
            if place not in self._masked:
                yield piece, -1
                continue
            events = self._events[place]
            if not any(token is not None for _, token in events):
                continue
            when, token = next((event for event in reversed(events) if event[0] < step), (0, None))
            same = token is None or token == self._final[place]
            yield piece if same else self._tokens[str(token)], None if token is None else when


def write_gif(recording: Recording, file: Path) -> set[str]:
    """Draw all rows at every step, or at some where there are many.

    Args:
        recording: the rows. file: where to.

    Returns:
        Letters that no font of this machine has; their escapes are drawn.

    Raises:
        OSError: the file cannot be written.
    """
    told = recording.to_dict()
    stories = [Story(row, told["tokens"]) for row in told["rows"]]
    steps = max((story.steps for story in stories), default=0)
    stride = max(1, -(-steps // MOST_FRAMES))
    fonts = Fonts(SIZE)
    layouts = [_layout([story.at(step) for story in stories], fonts) for step in (*range(0, steps, stride), steps)]
    height = max(high for _, high in layouts)
    frames = [_frame(cells, height, max(steps - 1, 1), fonts) for cells, _ in layouts]
    pace = int(1000 * SECONDS / len(frames))
    durations = [pace] * (len(frames) - 1) + [int(1000 * LAST_SECONDS)]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    return fonts.missing


def _layout(rows: list[Iterator[tuple[str, int | None]]], fonts: Fonts) -> tuple[list[Cell], int]:
    """Where each token stands, and how high the picture is."""
    cells: list[Cell] = []
    y = float(MARGIN)
    for row in rows:
        x = float(MARGIN)
        for text, written in row:
            for number, line in enumerate(_printable(text).split("\n")):
                if number:
                    x, y = float(MARGIN), y + LEADING
                width = fonts.length(line)
                if x + width > WIDTH - MARGIN and x > MARGIN:
                    x, y = float(MARGIN), y + LEADING
                cells.append(Cell(x, y, width, line, written))
                x += width
        y += 2 * LEADING
    return cells, int(y - LEADING + MARGIN)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter == "\n" else UNKNOWN for letter in text)


def _frame(cells: list[Cell], height: int, last: int, fonts: Fonts) -> Image.Image:
    image = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(image)
    for cell in cells:
        if cell.written != -1 and cell.width > 2:
            box = (cell.x + 0.5, cell.y - 3, cell.x + cell.width - 1, cell.y + SIZE + 5)
            draw.rounded_rectangle(box, 4, fill=MASK if cell.written is None else _tint(cell.written / last))
        if cell.written is None:
            continue
        x = cell.x
        for text, font in fonts.runs(cell.text):
            draw.text((x, cell.y + fonts.ascent), text, SOFT if cell.written < 0 else INK, font=font, anchor="ls")
            x += font.getlength(text)
    return image.quantize(64)


def _tint(part: float) -> tuple[int, int, int]:
    """Cool first, warm last."""
    red, green, blue = colorsys.hls_to_rgb((225 - 205 * part) / 360, 0.88, 0.75)
    return int(255 * red), int(255 * green), int(255 * blue)
