"""What a user may choose about the demo. Imports nothing heavy, since the command line's help reads it."""

from __future__ import annotations

from dataclasses import dataclass

from unmask.errors import ConfigError


@dataclass(frozen=True)
class DemoOptions:
    """What the demo does."""

    output_dir: str | None = None
    """Folder for data, adapter and report; default: unmask-demo here, or the next free name."""
    seed: int = 0
    """Other seeds give other tables, another order and other first weights of the adapter."""
    minutes: float = 5.5
    """About how long all of it may take; on a slow machine fewer steps are made."""
    steps: int | None = None
    """Fine-tuning steps, whatever they take."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; it must be at least 1.")
        if not 0 < self.minutes < float("inf"):
            raise ConfigError(f"minutes is {self.minutes}; it must be above 0.")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed is {self.seed}; it must be from 0 to 2147483647.")
