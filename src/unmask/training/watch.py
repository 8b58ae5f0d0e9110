"""A run that hangs shows where: if no forward ends for a while, the stacks of all threads are printed and it ends.

The clock is Python's own fault handler, which needs neither the interpreter's lock nor a working device. Every process
has one, so each prints its own stacks.
"""

from __future__ import annotations

import faulthandler
import sys
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Watch(TrainerCallback):
    """Wind up the clock at every sign of life.

    Args:
        seconds: without a sign after which the process is taken to hang; 0: never.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def wind(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin to wait anew."""
        del args, state, control
        if self.seconds > 0:
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=sys.__stderr__ or sys.stderr)

    on_train_begin = on_step_begin = on_substep_end = on_step_end = on_prediction_step = on_evaluate = on_save = wind

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, state, control
        faulthandler.cancel_dump_traceback_later()
