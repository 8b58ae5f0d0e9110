"""What the demo found out, as data, as JSON and as one page of HTML."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from unmask.demo.measures import Score
from unmask.generation.player import asset, page

REPORT, PAGE = "report.json", "report.html"


@dataclass(frozen=True)
class Filled:
    """A sentence below a table with a value missing, and what was put there before and after training."""

    given: str
    value: str
    before: str
    after: str


@dataclass(frozen=True)
class Example:
    """A question with the answer given; `whole` is what the model was shown, the table included."""

    kind: str
    whole: str
    expected: str
    answer: str
    is_right: bool

    @property
    def asked(self) -> str:
        """The question alone."""
        return self.whole.rpartition("\n")[2]


@dataclass(frozen=True)
class DemoReport:
    """Everything that the demo measured, on tables that it did not train on.

    Attributes:
        folder: where data, adapter and this report lie.
        seed, base, parameters: what was trained on. questions: to learn from. steps: of fine-tuning.
        filled_before, filled_after: values of statements filled in rightly. filled: one of them.
        before, after: kind of question -> exact matches; `all` is their sum. baselines: name -> the same.
        examples: right answers, then wrong ones. recording: how some were written, see `Recording.to_dict`.
        tokens_per_second: of fine-tuning. seconds: by part.
    """

    folder: str
    seed: int
    base: str
    parameters: int
    questions: int
    steps: int
    filled_before: Score
    filled_after: Score
    filled: Filled
    before: dict[str, Score]
    after: dict[str, Score]
    baselines: dict[str, dict[str, Score]]
    examples: tuple[Example, ...]
    recording: dict[str, Any]
    tokens_per_second: float
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the recording, which has files of its own."""
        return {name: value for name, value in asdict(self).items() if name != "recording"}

    def save(self) -> None:
        """Write the page, and then `report.json`, by which a finished demo is known."""
        folder = Path(self.folder)
        (folder / PAGE).write_text(self.html(), "utf-8")
        (folder / REPORT).write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", "utf-8")

    def html(self) -> str:
        """A page complete in itself."""
        intervals = {kind: score.interval for kind, score in self.after.items()}
        data = {**self.to_dict(), "recording": self.recording, "intervals": intervals}
        own = files("unmask.demo") / "assets"
        style = asset("page.css") + (own / "demo.css").read_text("utf-8")
        script = asset("player.js") + (own / "demo.js").read_text("utf-8")
        return page("unmask demo: questions about tables", data, style=style, script=script)
