"""Every mistake that a user can make ends in one of these, with a message that is a complete answer.

A message says what was wrong and where, what was found, what is allowed, and what to do. The command line prints it
without a traceback and exits with code 2. This module knows nothing of the rest of the package.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnmaskError(Exception):
    """A mistake that the user can mend; its text is written for the person who reads it."""


class ConfigError(UnmaskError):
    """An option, a configuration file or a combination of settings is wrong."""


class DataError(UnmaskError):
    """A dataset, a file in it or a row of it is wrong."""


class ModelError(UnmaskError):
    """A checkpoint, a tokenizer or an adapter is wrong or missing."""


class ResourceError(UnmaskError):
    """The machine lacks what was asked for: a device, memory, disk space, an optional package."""


class OutOfMemoryError(ResourceError):
    """Memory did not suffice for what was asked for."""


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that `name` most resembles, or None when nothing is near."""
    names = {candidate.lower(): candidate for candidate in allowed}
    found = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=0.6)
    return names[found[0]] if found else None


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """A sentence ` Did you mean "x"?`, or the empty string when nothing is near."""
    guess = nearest(name, allowed)
    return f' Did you mean "{guess}"?' if guess else ""
