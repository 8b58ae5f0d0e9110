"""A text with blanks: what its blanks are, its token ids, and the text again when they are filled.

Knows a tokenizer of transformers; not what fills the blanks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from unmask.errors import ConfigError

BLANK = "[MASK]"
MOST = 128  # tokens of one blank that is written with a number
_NUMBERED = r"\[MASK:(?P<least>\d{1,9})(?:-(?P<most>\d{1,9}))?\]"
_FIELD = r"\{(?P<name>[^\W\d]\w*):(?P<low>\d{1,9})(?:-(?P<high>\d{1,9}))?\}"
# what is surely meant as one of these, and is none
_NO_BLANK = r"(?P<no_blank>\[MASK:[^\[\]\n]+\])"
_NO_FIELD = (
    r"(?P<no_field>\{[^\W\d]\w*\}|\{[^\W\d]\w*\s*:[^{}\n]*\}"
    r"|\{[^\W\d][\w .-]*:\s*\d+\s*(?:-\s*\d+)?\s*\})"
)


@dataclass(frozen=True)
class Blank:
    """A run of tokens to be written.

    Attributes:
        least, most: its tokens; where these differ its length is open.
        name: of a field of a template, else empty.
    """

    least: int
    most: int
    name: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most <= MOST:
            raise ConfigError(
                f"a blank of {self.least} to {self.most} tokens is none; it has from 1 to {MOST} tokens, the smaller "
                "number first, for example [MASK:1-8]."
            )


@dataclass(frozen=True)
class Blanked:
    """A text with blanks.

    Attributes:
        pieces: the text around the blanks, one more than these.
        blanks: in order.
        is_template: whether braces were read as fields.
    """

    pieces: tuple[str, ...]
    blanks: tuple[Blank, ...]
    is_template: bool = False

    @property
    def is_open(self) -> bool:
        """Whether the length of a blank is open."""
        return any(blank.least < blank.most for blank in self.blanks)


def read_blanks(text: str, mask_token: str, *, fields: bool = False) -> Blanked:
    """Find the blanks of a text.

    Args:
        text: `[MASK]` or the mask token is one token, `[MASK:4]` four of them, `[MASK:1-8]` one to eight.
        mask_token: the tokenizer's.
        fields: `{name:4}` and `{name:1-8}` are blanks with a name; braces that hold no bare name are text, as in JSON.

    Raises:
        ConfigError: a blank has no length that can be written, two have one name, or something is nearly a blank, as
            `[MASK:x]` and the field `{name}` are.
    """
    forms = [re.escape(BLANK), re.escape(mask_token), _NUMBERED, _NO_BLANK, *([_FIELD, _NO_FIELD] if fields else [])]
    pieces, blanks, start = [""], list[Blank](), 0
    for match in re.finditer("|".join(forms), text):
        between, blank = text[start : match.start()], _blank(match)
        start = match.end()
        if not between and blanks and _joins(blanks[-1], blank):
            blanks[-1] = Blank(blanks[-1].least + 1, blanks[-1].most + 1)
        else:
            pieces[-1] += between
            pieces.append("")
            blanks.append(blank)
    pieces[-1] = text[start:]
    names = [blank.name for blank in blanks if blank.name]
    if len(set(names)) < len(names):
        raise ConfigError(f"the template has two fields of one name: {', '.join(names)}. Give each its own.")
    return Blanked(tuple(pieces), tuple(blanks), fields)


def _blank(match: re.Match[str]) -> Blank:
    groups = match.groupdict()
    if groups.get("no_blank"):
        raise ConfigError(
            f'"{_short(match[0])}" in the text is no blank. Write [MASK] for one token, [MASK:4] for four, or '
            "[MASK:1-8] for one to eight, without spaces."
        )
    if groups.get("no_field"):
        name = re.sub(r"\W+", "_", match[0][1:-1].split(":")[0].strip())
        raise ConfigError(
            f'"{_short(match[0])}" in the template is no field. Write {{{name}:4}} for four tokens, or {{{name}:1-8}} '
            "for one to eight, without spaces. Where such braces are to stay as they are, give no template but a text "
            "with [MASK:4]."
        )
    least = groups.get("least") or groups.get("low") or "1"
    most = groups.get("most") or groups.get("high") or least
    return Blank(int(least), int(most), groups.get("name") or "")


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _joins(before: Blank, blank: Blank) -> bool:
    """Whether a blank of one token goes on with the one before it: letters may span several tokens."""
    return before.least == before.most < MOST and not before.name and blank == Blank(1, 1)


def blanked_ids(blanked: Blanked, lengths: Sequence[int], tokenizer: Any) -> tuple[list[int], tuple[str, ...]]:
    """The ids of a text with as many masks for each blank as `lengths` says, and the pieces of text around the masks.

    Where the tokenizer's mask token takes the space before it (`lstrip`), as the words of its vocabulary bring theirs
    along, that space belongs to the blank: it is in no piece. Nothing else of the text is lost.

    Args:
        blanked: the text.
        lengths: tokens of each blank.
        tokenizer: with a mask token.
    """
    mask_token = cast(str, tokenizer.mask_token)
    pieces = [blanked.pieces[0]]
    for length, piece in zip(lengths, blanked.pieces[1:], strict=True):
        pieces += [*[""] * (length - 1), piece]
    if not tokenizer.added_tokens_decoder[tokenizer.mask_token_id].lstrip:
        return list(tokenizer(mask_token.join(pieces), verbose=False)["input_ids"]), tuple(pieces)
    pieces = [*(piece.removesuffix(" ") for piece in pieces[:-1]), pieces[-1]]
    # read apart, since in one text the mask token would take line breaks and further spaces too
    parts = [part for piece in pieces for part in (mask_token, piece)][1:]
    return list(tokenizer(parts, is_split_into_words=True, verbose=False)["input_ids"]), tuple(pieces)


def filled_text(pieces: Sequence[str], blanks: Sequence[int], decode: Callable[[int, int], str]) -> str:
    """A text whose blanks are filled: its own pieces, byte for byte, and what was written between them.

    Args:
        pieces: around the masks, as from `blanked_ids`.
        blanks: positions of the masks.
        decode: the text of the positions from the first, up to but without the last. Masks side by side are one run.
    """
    text, start = pieces[0], 0
    for index, piece in enumerate(pieces[1:]):
        if piece or index == len(blanks) - 1:
            run = blanks[start : index + 1]
            text += decode(run[0], run[-1] + 1) + piece
            start = index + 1
    return text
