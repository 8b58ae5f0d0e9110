"""What a value of an option must be. Knows no option."""

from __future__ import annotations

import math
import operator
from typing import Any, get_args

from unmask.errors import ConfigError


def at_least_one(name: str, value: Any) -> None:
    """Raises ConfigError: no whole number from 1 on."""
    at_least(name, value, 1)


def at_least(name: str, value: Any, least: int) -> None:
    """Raises ConfigError: no whole number from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number, at least {least}.")


def whole_number(name: str, value: Any) -> int:
    """A whole number of any library as Python's own.

    Raises:
        ConfigError: it is none.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ConfigError(f"{name} is {value!r}; it must be a whole number.")


def one_of(name: str, value: Any, kinds: Any) -> None:
    """Raises ConfigError: none of the values of a `Literal`."""
    if value not in get_args(kinds):
        raise ConfigError(f'{name} is "{value}"; it can be {", ".join(get_args(kinds))}.')


def within(name: str, value: Any, low: float, high: float | None) -> None:
    """Raises ConfigError: no number from `low` to `high`; None: no bound."""
    allowed = f"a number from {low:g} to {high:g}" if high is not None else f"a finite number, at least {low:g}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; it must be {allowed}.")
    if value < low or (high is not None and value > high):
        raise ConfigError(f"{name} is {value!r}; it must be {allowed}.")


def texts(name: str, value: Any) -> tuple[str, ...]:
    """One text, or several, as several.

    Raises:
        ConfigError: one of them is no text, or empty.
    """
    given = _several(value)
    for text in given:
        if not isinstance(text, str) or not text:
            raise ConfigError(f"{name} has {text!r}; it is a text, or a list of texts, none of them empty.")
    return given


def token_ids(name: str, value: Any) -> tuple[int, ...]:
    """A list of ids.

    Raises:
        ConfigError: one of them cannot be an id.
    """
    ids = _several(value)
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise ConfigError(f"{name} has {token_id!r}; it is a list of token ids, whole numbers from 0.")
    return ids


def _several(value: Any) -> tuple[Any, ...]:
    """One value, or those of a list."""
    if isinstance(value, str):
        return (value,)
    try:
        return tuple(value)
    except TypeError:
        return (value,)
