"""A loss that suddenly jumps is said in a line, with the samples it came from; the run goes on.

Watched is the plain cross-entropy of masked tokens: the bound itself jumps whenever a sample is noised a little only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# reports that are looked back on, and how many there must be before anything is unusual
_LOOKED_BACK, _FEWEST = 50, 20
# median absolute deviations: as normal ones go, once in 500 million
_FAR = 6 * 1.4826


class Spikes(TrainerCallback):
    """Compare each report with those before it.

    Args:
        samples: of an update. tell: says a line to the user.
    """

    def __init__(self, samples: int, tell: Callable[[str], None]) -> None:
        self.samples, self.tell = samples, tell
        self._before: deque[float] = deque(maxlen=_LOOKED_BACK)
        self._reported = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Look at a report of training."""
        del args, control
        value = (logs or {}).get("unscaled_loss")
        if value is None:
            return
        first, self._reported = self._reported, state.global_step
        if len(self._before) >= _FEWEST and state.is_world_process_zero:
            usual = median(self._before)
            spread = median(abs(other - usual) for other in self._before)
            if value > usual + _FAR * max(spread, 0.01 * usual):
                last = state.global_step
                self.tell(
                    f"warning: the loss of masked tokens jumped to {value:.3f} (usual: {usual:.3f}, give or take "
                    f"{spread:.3f}) in updates {first + 1:,} to {last:,}, samples {first * self.samples:,} to "
                    f"{last * self.samples - 1:,} of the run's order"
                )
        self._before.append(value)
