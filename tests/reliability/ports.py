"""A port that nobody listens on."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Found free a moment ago."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]
