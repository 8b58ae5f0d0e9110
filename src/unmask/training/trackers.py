"""Trackers: TensorBoard, Weights & Biases, SwanLab and whatever else the installed transformers knows.

Each is asked for by `report_to`, none by default, and none may stop a run: what fails is told once and left out from
then on.
"""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from transformers import TrainerCallback
from transformers.integrations.integration_utils import (
    get_available_reporting_integrations,
    get_reporting_integration_callbacks,
)

from unmask.errors import ResourceError
from unmask.training.arguments import Settings
from unmask.training.callbacks import Tolerant


def tracker_names(settings: Settings) -> list[str]:
    """The trackers asked for; `all` means those that are installed."""
    report_to = settings.trainer.get("report_to") or "none"
    names = report_to.split(",") if isinstance(report_to, str) else list(report_to)
    names = [name.strip() for name in names if name.strip() not in ("", "none")]
    return list(dict.fromkeys(get_available_reporting_integrations() if "all" in names else names))


def tracker_callbacks(settings: Settings, console: Console) -> list[TrainerCallback]:
    """One callback per tracker.

    Args:
        settings: of the run. console: where a tracker's failure is told.

    Raises:
        ResourceError: a tracker is not installed.
    """
    # transformers dropped `logging_dir`; its TensorBoard callback reads this instead
    os.environ["TENSORBOARD_LOGGING_DIR"] = settings.run.logging_dir or os.path.join(
        settings.trainer["output_dir"], "logs"
    )
    return [Guarded(_made(name, settings), name, console) for name in tracker_names(settings)]


def _made(name: str, settings: Settings) -> TrainerCallback:
    try:
        return _swanlab(settings) if name == "swanlab" else get_reporting_integration_callbacks([name])[0]()
    except (ImportError, RuntimeError, AssertionError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ResourceError(f"report_to: {name} cannot be used: {first} Install it, or leave it out.") from None


def _swanlab(settings: Settings) -> TrainerCallback:
    """SwanLab's own callback: the one of transformers breaks with the present SwanLab ("No active Run")."""
    from swanlab.integration.transformers import SwanLabCallback  # type: ignore[import-not-found]

    named = {"project": os.environ.get("SWANLAB_PROJECT"), "experiment_name": settings.trainer.get("run_name")}
    return SwanLabCallback(**{name: value for name, value in named.items() if value})


class Guarded(TrainerCallback):
    """A tracker's callback that cannot stop a run: after its first failure it is not called any more."""

    def __init__(self, inner: TrainerCallback, name: str, console: Console) -> None:
        self._inner = inner
        self._mishap = Tolerant(f"{name} is told nothing more about this run", console)

    def __getattribute__(self, name: str) -> Any:
        """Events go to the tracker; `TrainerCallback` has a method for each, so `__getattr__` would never be asked."""
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        event, mishap = getattr(self._inner, name, None), self._mishap

        def told(*args: Any, **words: Any) -> Any:
            if event is None or mishap.failed:
                return None
            with mishap:
                return event(*args, **words)
            return None

        return told
