"""A text with blanks: its token ids, the text around the blanks, and the text again when they are filled.

Knows a tokenizer of transformers; not what fills the blanks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, cast

BLANK = "[MASK]"


def blanked_ids(text: str, tokenizer: Any) -> tuple[list[int], tuple[str, ...]]:
    """The ids of a text with a mask for each blank, and the pieces of text around the blanks, one more than these.

    Where the tokenizer's mask token takes the space before it (`lstrip`), as the words of its vocabulary bring theirs
    along, that space belongs to the blank: it is in no piece. Nothing else of the text is lost.

    Args:
        text: each `[MASK]` in it, or mask token of the tokenizer, is one blank.
        tokenizer: with a mask token.
    """
    mask_token = cast(str, tokenizer.mask_token)
    pieces = re.split(f"{re.escape(BLANK)}|{re.escape(mask_token)}", text)
    if not tokenizer.added_tokens_decoder[tokenizer.mask_token_id].lstrip:
        return list(tokenizer(mask_token.join(pieces), verbose=False)["input_ids"]), tuple(pieces)
    pieces = [*(piece.removesuffix(" ") for piece in pieces[:-1]), pieces[-1]]
    # read apart, since in one text the mask token would take line breaks and further spaces too
    parts = [part for piece in pieces for part in (mask_token, piece)][1:]
    return list(tokenizer(parts, is_split_into_words=True, verbose=False)["input_ids"]), tuple(pieces)


def filled_text(pieces: Sequence[str], blanks: Sequence[int], decode: Callable[[int, int], str]) -> str:
    """A text whose blanks are filled: its own pieces, byte for byte, and what was written between them.

    Args:
        pieces: around the blanks, as from `blanked_ids`.
        blanks: positions of the blanks.
        decode: the text of the positions from the first, up to but without the last. Blanks side by side are one run.
    """
    text, start = pieces[0], 0
    for index, piece in enumerate(pieces[1:]):
        if piece or index == len(blanks) - 1:
            run = blanks[start : index + 1]
            text += decode(run[0], run[-1] + 1) + piece
            start = index + 1
    return text
