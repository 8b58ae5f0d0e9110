"""Fonts of a picture: a letter that the first one lacks is drawn with another font of the machine, or else spelled out.

Needs Pillow, from the extra `gif`. Knows no trace.
"""

from __future__ import annotations

import shutil
import subprocess
import unicodedata
from typing import Any

from PIL import ImageFont

MONOSPACED = "DejaVuSansMono.ttf"
# where fontconfig is not there to be asked: fonts of Windows, macOS and Linux that know many letters
KNOWN = (
    "msyh.ttc",
    "malgun.ttf",
    "msgothic.ttc",
    "seguisym.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "NotoSansCJK-Regular.ttc",
    "DejaVuSans.ttf",
)
MOST_TRIED = 8
# no letter, today and ever: what a font draws for it is what it draws for all that it lacks
NO_LETTER = "\U0010fffe"


class Fonts:
    """The machine's DejaVu, or the font inside Pillow, and others for what it lacks.

    Args:
        size: in pixels.

    Attributes:
        missing: letters that were asked for and that no font here has.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.missing: set[str] = set()
        self._fonts: list[Any] = [_opened(MONOSPACED, size) or ImageFont.load_default(size)]
        self._asked: set[str] = set()
        self._found: dict[str, Any] = {}

    @property
    def ascent(self) -> int:
        """Pixels from the top of a line to its baseline."""
        return self._fonts[0].getmetrics()[0]

    def runs(self, text: str) -> list[tuple[str, Any]]:
        """The text in stretches of one font each; letters that none has are written as Python's escapes."""
        found: list[tuple[str, Any]] = []
        for letter in text:
            font = self._font_of(letter)
            shown = letter if font else letter.encode("unicode_escape").decode("ascii")
            font = font or self._fonts[0]
            if found and found[-1][1] is font:
                found[-1] = (found[-1][0] + shown, font)
            else:
                found.append((shown, font))
        return found

    def length(self, text: str) -> float:
        """Pixels that a text without line breaks takes."""
        return sum(font.getlength(part) for part, font in self.runs(text))

    def _font_of(self, letter: str) -> Any:
        if letter not in self._found:
            font = next((font for font in self._fonts if _has(font, letter)), None)
            self._found[letter] = font or self._another(letter)
        return self._found[letter]

    def _another(self, letter: str) -> Any:
        """A font that was not needed so far, or None; the machine is asked once for each script."""
        script = unicodedata.name(letter, "").partition(" ")[0]
        for name in [] if script in self._asked else installed(letter):
            font = _opened(name, self.size)
            if font is not None and _has(font, letter):
                self._fonts.append(font)
                return font
        self._asked.add(script)
        self.missing.add(letter)
        return None


def installed(letter: str) -> list[str]:
    """Files of fonts that may have a letter, the likeliest first."""
    program = shutil.which("fc-match")
    if program is None:
        return list(KNOWN)
    asked = [program, "--sort", "--format", "%{file}\n", f"sans-serif:charset={ord(letter):x}"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return list(KNOWN)
    return told.splitlines()[:MOST_TRIED]


def _opened(name: str, size: int) -> Any:
    try:
        return ImageFont.truetype(name, size, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        # not there, or made of pictures in other sizes, as colourful emoji are
        return None


def _has(font: Any, letter: str) -> bool:
    return letter.isspace() or _drawn(font, letter) != _drawn(font, NO_LETTER)


def _drawn(font: Any, letter: str) -> tuple[Any, bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
