"""What a run tells while it runs: a line of metrics in a file, a line on the screen, and the ends of epochs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from unmask.training.meter import brief

METRICS = "metrics.jsonl"
_LEFT_OUT = ("total_flos", "train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second")


class Tolerant:
    """A context for what only shows a run: the first error in it is told in one line, and the run goes on.

    Args:
        consequence: what is not done any more, for the line. console: where it is told.
    """

    def __init__(self, consequence: str, console: Console) -> None:
        self.consequence, self.console = consequence, console
        self.failed = False

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        """Pass over errors of any kind: they are those of foreign services; only interruptions go through."""
        del kind, trace
        if not isinstance(error, Exception):
            return False
        if not self.failed:
            first = str(error).strip().splitlines()[:1]
            why = f"{type(error).__name__}: {first[0]}" if first else type(error).__name__
            told = f"warning: {self.consequence} ({why})"
            self.console.print(told, highlight=False, markup=False, soft_wrap=True)
        self.failed = True
        return True


class Epochs(TrainerCallback):
    """Give `epoch` its meaning: the library sees the whole run as one pass over one long loader."""

    def __init__(self, epochs_done: Callable[[int], float]) -> None:
        self.epochs_done = epochs_done

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        before = self.epochs_done(state.global_step - 1)
        state.epoch = self.epochs_done(state.global_step)
        # at the very end the library itself calls an end of an epoch
        if int(state.epoch) > int(before) and state.global_step < state.max_steps:
            control.should_evaluate |= args.eval_strategy == IntervalStrategy.EPOCH
            control.should_save |= args.save_strategy == SaveStrategy.EPOCH
            control.should_log |= args.logging_strategy == IntervalStrategy.EPOCH
        return control


class MetricsFile(TrainerCallback):
    """Append each report to `metrics.jsonl`, whatever trackers there are and however full the disk; rank 0 only."""

    def __init__(self, output_dir: Path, console: Console) -> None:
        self.path = output_dir / METRICS
        self.history: list[dict[str, float]] = []
        self._file = Tolerant(f"{self.path} lacks some reports", console)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        del args, control
        entry = {name: value for name, value in (logs or {}).items() if name not in (*_LEFT_OUT, "epoch")}
        if not entry or not state.is_world_process_zero:
            return
        line = {"step": state.global_step, "epoch": round(state.epoch or 0.0, 6), **entry}
        self.history.append(line)
        with self._file:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A resumed run drops what an earlier one reported beyond its last checkpoint."""
        del args, control
        if not state.is_world_process_zero or not self.path.is_file():
            return
        self.history = [line for line in reports(self.path) if line.get("step", 0) <= state.global_step]
        with self._file:
            write_beside(self.path, "".join(json.dumps(line) + "\n" for line in self.history))


def reports(path: Path) -> list[dict[str, float]]:
    """The reports in a file of metrics; a line that a kill or a full disk cut off is left out."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def write_beside(file: Path, text: str) -> None:
    """Write a file whole: a reader sees the old one or the new one, never a part."""
    beside = file.with_name(f".{file.name}.partial")
    beside.write_text(text, "utf-8")
    os.replace(beside, file)


class ProgressLine(TrainerCallback):
    """One line: step, loss, bound, what `meter.brief` says, time left. Rewritten in place on a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = 0.0
        self.first_step = 0
        self.status: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, control
        self.started, self.first_step = time.perf_counter(), state.global_step
        if self.console.is_terminal and state.is_world_process_zero:
            self.status = self.console.status("first update ...")
            self.status.start()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        del args, control
        if not state.is_world_process_zero or not logs:
            return
        if "eval_nll" in logs:
            error = f" ± {logs['eval_nll_stderr']:.4f}" if "eval_nll_stderr" in logs else ""
            self.console.print(
                f"step {state.global_step:,}  evaluation: bound {logs['eval_nll']:.4f}{error} nats/token",
                highlight=False,
                soft_wrap=True,
            )
        elif "tokens_per_second" in logs:
            text = self._line(state, logs)
            if self.status is not None:
                self.status.update(text)
            else:
                self.console.print(text, highlight=False, soft_wrap=True)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, state, control
        if self.status is not None:
            self.status.stop()

    def _line(self, state: TrainerState, logs: dict[str, float]) -> str:
        done = max(state.global_step - self.first_step, 1)
        left = (time.perf_counter() - self.started) / done * (state.max_steps - state.global_step)
        return (
            f"step {state.global_step:,}/{state.max_steps:,}  loss {logs.get('loss', float('nan')):.4f}  "
            f"bound {logs.get('nll', float('nan')):.4f} nats/token  "
            f"{brief(logs)}  {_clock(left)} left"
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
