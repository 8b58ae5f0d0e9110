"""Stop strings: where a text ends before one of them. Knows no tokenizer and no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

TextOf = Callable[[Sequence[int]], str]


def first_stop(text: str, stops: Sequence[str], start: int = 0) -> int | None:
    """Where the earliest stop string that ends behind `start` begins; None: there is none.

    Of several that begin at one place it does not matter which is meant: the text ends there.
    """
    places = [place for stop in stops if (place := text.find(stop, max(0, start - len(stop) + 1))) >= 0]
    return min(places, default=None)


def cut_at_stop(
    token_ids: list[int], stops: Sequence[str], text_of: TextOf, least: int = 0
) -> tuple[list[int], str, bool]:
    """Tokens and text before the first stop string, and whether there was one.

    The tokens are the fewest whose text holds all that is kept, so that the last of them may reach into the stop.

    Args:
        token_ids: of a row, all of them written.
        stops: the strings.
        text_of: text of the first ids of the row.
        least: tokens that no stop string ends.
    """
    text = text_of(token_ids)
    end = first_stop(text, stops, len(text_of(token_ids[:least])) if least else 0)
    if end is None:
        return token_ids, text, False
    low, high = 0, len(token_ids)
    while low < high:
        middle = (low + high) // 2
        if text_of(token_ids[:middle]).startswith(text[:end]):
            high = middle
        else:
            low = middle + 1
    return token_ids[:low], text[:end], True
