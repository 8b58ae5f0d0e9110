"""`OUTPUT_DIR/report.html`: a run as one page that needs no network, written again and again while the run goes on.

Knows what callbacks are told, and asks `report_samples` for texts and `report_facts` for everything that stands still.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from unmask.generation.player import asset, page
from unmask.training.callbacks import MetricsFile, Tolerant, write_beside
from unmask.training.report_facts import Facts, peak_memory
from unmask.training.report_samples import Sampler

REPORT = "report.html"
SCHEMA = "unmask-report/1"
# a page is rewritten this often at most, and only so often that writing takes a fiftieth of the time
_SECONDS, _SHARE = 5.0, 50
_MOST_POINTS, _MOST_SAMPLES = 2000, 24
_DATA_BEGINS, _DATA_ENDS = '<script type="application/json" id="data">', "</script>"


@dataclass
class Progress:
    """How far the run is."""

    state: str = "running"
    step: int = 0
    max_steps: int = 0
    epoch: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class ReportOptions:
    """Where a report is written, and who is told when it cannot be.

    Attributes:
        file: its path. console: for the one warning. sample_every: updates between samples; None: at evaluations.
    """

    file: Path
    console: Console
    sample_every: int | None = None


class Report(TrainerCallback):
    """Keeps the page up to date. All ranks take part in sampling, the first one writes.

    Args:
        options: see there. facts: what stands still. metrics: what was reported so far.
        sampler: writes texts now and then; None: there are none, and `facts.samples_note` says why.

    Attributes:
        paused: told how many seconds something else than training took.
    """

    def __init__(self, options: ReportOptions, facts: Facts, metrics: MetricsFile, sampler: Sampler | None) -> None:
        self.options, self.facts, self.metrics, self.sampler = options, facts, metrics, sampler
        self.paused: Callable[[float], None] = lambda seconds: None
        self.progress = Progress()
        self.samples: list[dict[str, Any]] = []
        self.peak = 0
        self._page = Tolerant(f"the report {options.file} is not written any more", options.console)
        self._texts = Tolerant("no more samples are written into the report", options.console)
        self._began = self._written = time.perf_counter()
        self._cost, self._first_step, self._seconds_before, self._is_first = 0.0, 0, 0.0, False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, control
        self._is_first = state.is_world_process_zero
        self._began, self._first_step = time.perf_counter(), state.global_step
        if state.global_step == 0:
            self._sample(state)
        elif self._is_first:
            self._remember(state.global_step)
        self._tell(state, now=True)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, control
        self._tell(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, control
        if self.options.sample_every and state.global_step % self.options.sample_every == 0:
            self._sample(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, control
        if self.options.sample_every is None:
            self._sample(state)
        self._tell(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, control
        self._sample(state)
        self.progress.state = "finished"
        self._tell(state, now=True)

    def stopped(self, reason: str) -> None:
        """Say on the page that the run ended early, and why."""
        self.progress.state, self.progress.reason = "stopped", reason
        if self._is_first:
            with self._page:
                self._write()

    def _sample(self, state: TrainerState) -> None:
        """All ranks run the same forwards; a step that was sampled is not sampled again."""
        if self.sampler is None or self._texts.failed or self.sampler.last_step == state.global_step:
            return
        began = time.perf_counter()
        with self._texts:
            recording = self.sampler.record(state.global_step)
            if self._is_first:
                self.samples = thinned(
                    [*self.samples, {"step": state.global_step, "recording": recording}], _MOST_SAMPLES
                )
        self.paused(time.perf_counter() - began)

    def _tell(self, state: TrainerState, *, now: bool = False) -> None:
        since = time.perf_counter() - self._written
        if not self._is_first or self._page.failed or not (now or since > max(_SECONDS, _SHARE * self._cost)):
            return
        spent = time.perf_counter() - self._began
        done = state.global_step - self._first_step
        progress = self.progress
        progress.step, progress.max_steps, progress.epoch = state.global_step, state.max_steps, state.epoch or 0.0
        progress.seconds = self._seconds_before + spent
        progress.seconds_left = spent / done * (state.max_steps - state.global_step) if done else None
        with self._page:
            self._write()

    def _write(self) -> None:
        began = time.perf_counter()
        self.peak, where = peak_memory(self.peak)
        memory = {**self.facts.memory, "peak": self.peak, "where": where}
        data = {**self.facts.to_dict(), "memory": memory, **asdict(self.progress), "samples": self.samples}
        data["history"] = thinned_history(self.metrics.history, _MOST_POINTS)
        data["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_beside(self.options.file, report_page(self.facts.title, {"schema": SCHEMA, **data}))
        self._written = time.perf_counter()
        self._cost = self._written - began

    def _remember(self, step: int) -> None:
        """A resumed run keeps the samples and the seconds of its earlier part."""
        with self._page:
            earlier = read_report(self.options.file)
            self.samples = [sample for sample in earlier.get("samples", []) if sample.get("step", 0) <= step]
            self._seconds_before = float(earlier.get("seconds", 0.0))


def report_page(title: str, data: dict[str, Any]) -> str:
    """The page of a run, complete in itself."""
    own = files("unmask.training") / "assets"
    style = asset("page.css") + (own / "report.css").read_text("utf-8")
    script = asset("player.js") + (own / "report.js").read_text("utf-8")
    return page(title, data, style=style, script=script)


def read_report(file: Path) -> dict[str, Any]:
    """The data inside a report; empty where there is no report, or none that we wrote."""
    if not file.is_file():
        return {}
    _, _, rest = file.read_text("utf-8").partition(_DATA_BEGINS)
    text, end, _ = rest.partition(_DATA_ENDS)
    data = json.loads(text) if end else {}
    return data if data.get("schema") == SCHEMA else {}


def thinned(entries: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of them, the first and the last among these, the others evenly spaced."""
    if len(entries) <= most:
        return list(entries)
    last = len(entries) - 1
    return [entries[round(index * last / (most - 1))] for index in range(most)]


def thinned_history(history: Sequence[dict[str, float]], most: int) -> list[dict[str, float]]:
    """Reports for a chart: evaluations all, of the others at most `most`."""
    kept = {id(line) for line in thinned([line for line in history if "loss" in line], most)}
    return [line for line in history if "loss" not in line or id(line) in kept]
