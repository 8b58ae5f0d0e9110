"""Signals that end a run: remembered when they come, obeyed at the end of an update.

A handler does no more than remember: saving inside one could meet a half-written file or a lock of its own process.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

# what schedulers send before they take a machine away, and Ctrl-C
OBEYED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Signals:
    """A context in which the signals are remembered; outside it they do what they did before.

    A second Ctrl-C does not wait: it interrupts at once.

    Attributes:
        received: the first one that came.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        # only the main thread of a process may say what a signal does
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in OBEYED}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)
