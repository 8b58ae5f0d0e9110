"""A trace as a moving picture, for pages that play nothing else. Needs Pillow, from the extra `gif`."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from unmask.generation.player import Recording

WIDTH, MARGIN, SIZE, LEADING = 960, 28, 18, 30
MOST_FRAMES = 90
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
SECONDS, LAST_SECONDS = 8.0, 2.5
PAPER, INK, SOFT, MASK = (255, 255, 255), (28, 29, 33), (120, 123, 132), (228, 226, 220)


@dataclass(frozen=True)
class Cell:
    """A token's place on the picture; `written` is the step that wrote what is shown, -1 where it was given."""

    x: float
    y: float
    width: float
    text: str
    written: int


def write_gif(recording: Recording, file: Path) -> None:
    """Draw all rows at every step, or at some where there are many.

    Args:
        recording: the rows. file: where to.

    Raises:
        OSError: the file cannot be written.
    """
    rows = recording.to_dict()["rows"]
    steps = max((commit["step"] + 1 for row in rows for commit in row["commits"]), default=0)
    font: Any = _font()
    cells, height = _layout(rows, font)
    stride = max(1, -(-steps // MOST_FRAMES))
    shown = [*range(0, steps, stride), steps]
    frames = [_frame(cells, height, step, max(steps - 1, 1), font) for step in shown]
    pace = int(1000 * SECONDS / len(frames))
    durations = [pace] * (len(frames) - 1) + [int(1000 * LAST_SECONDS)]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)


def _font() -> Any:
    """The machine's DejaVu, which knows most alphabets, or the font inside Pillow."""
    try:
        return ImageFont.truetype("DejaVuSansMono.ttf", SIZE, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        return ImageFont.load_default(SIZE)


def _layout(rows: list[dict[str, Any]], font: Any) -> tuple[list[Cell], int]:
    """Where each token of the finished rows stands, and how high the picture is."""
    cells: list[Cell] = []
    y = float(MARGIN)
    for row in rows:
        x = float(MARGIN)
        for text, written in _tokens(row):
            for number, line in enumerate(text.split("\n")):
                if number:
                    x, y = float(MARGIN), y + LEADING
                width = font.getlength(line)
                if x + width > WIDTH - MARGIN and x > MARGIN:
                    x, y = float(MARGIN), y + LEADING
                cells.append(Cell(x, y, width, line, written))
                x += width
        y += 2 * LEADING
    return cells, int(y - LEADING + MARGIN)


def _tokens(row: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Each token's text and the step that wrote it last; what was never written is left out."""
    steps = {place: commit["step"] for commit in row["commits"] for place in commit["positions"]}
    masked = set(row["masked"])
    for place, text in enumerate(row["pieces"]):
        if place in steps or place not in masked:
            letters = (letter if letter.isprintable() or letter == "\n" else UNKNOWN for letter in text)
            yield "".join(letters), steps.get(place, -1)


def _frame(cells: list[Cell], height: int, step: int, last: int, font: Any) -> Image.Image:
    image = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(image)
    for cell in cells:
        box = (cell.x + 0.5, cell.y - 3, cell.x + cell.width - 1, cell.y + SIZE + 5)
        if cell.written >= step and cell.width > 2:
            draw.rounded_rectangle(box, 4, fill=MASK)
        elif 0 <= cell.written < step:
            if cell.width > 2:
                draw.rounded_rectangle(box, 4, fill=_tint(cell.written / last))
            draw.text((cell.x, cell.y), cell.text, INK, font=font)
        elif cell.written < 0:
            draw.text((cell.x, cell.y), cell.text, SOFT, font=font)
    return image.quantize(64)


def _tint(part: float) -> tuple[int, int, int]:
    """Cool first, warm last."""
    red, green, blue = colorsys.hls_to_rgb((225 - 205 * part) / 360, 0.88, 0.75)
    return int(255 * red), int(255 * green), int(255 * blue)
