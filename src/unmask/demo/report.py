"""What the demo found out, as data, as JSON and as a page of Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unmask.demo.measures import Score


@dataclass(frozen=True)
class Text:
    """A text to go on from, or with blanks, and what the model made of it before and after training."""

    given: str
    before: str
    after: str


@dataclass(frozen=True)
class DemoReport:
    """Everything that the demo measured, on texts and tables that it did not train on.

    Attributes:
        folder: where data, models and this report lie.
        seed, parameters, vocab_size, train_tokens: what was trained on how much.
        uniform_nats, unigram_nats: nats per token of knowing nothing, and of knowing how frequent each token is.
        bound_before, bound_after: nats per token, upper bounds of the model's.
        facts_before, facts_after: facts of the texts filled in rightly.
        continued: continuations. filled: a blank in the middle of a sentence.
        answers_before, answers_after: kind of question -> answers on unseen tables, before and after fine-tuning.
        steps: of pretraining and fine-tuning. tokens_per_second: of pretraining. seconds: by part.
    """

    folder: str
    seed: int
    parameters: int
    vocab_size: int
    train_tokens: int
    uniform_nats: float
    unigram_nats: float
    bound_before: float
    bound_after: float
    facts_before: Score
    facts_after: Score
    continued: tuple[Text, ...]
    filled: tuple[Text, ...]
    answers_before: dict[str, Score]
    answers_after: dict[str, Score]
    steps: dict[str, int]
    tokens_per_second: float
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def save(self) -> None:
        """Write `report.json` and `report.md` into the folder."""
        folder = Path(self.folder)
        (folder / "report.json").write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", "utf-8")
        (folder / "report.md").write_text(self.markdown(), "utf-8")

    def markdown(self) -> str:
        """A short page."""
        lines = [
            "# A masked diffusion language model from nothing",
            "",
            f"{self.parameters:,} parameters, {self.vocab_size:,} tokens of vocabulary, trained on "
            f"{self.train_tokens:,} tokens of generated text for {self.steps['pretrain']:,} steps, then on questions "
            f"for {self.steps['sft']:,} steps, on a CPU, in {self.seconds['total']:.0f} s. Seed {self.seed}. "
            "All figures are of texts and tables that were not trained on.",
            "",
            "| nats per token (less is better) | |",
            "| --- | --- |",
            f"| knowing nothing | {self.uniform_nats:.2f} |",
            f"| knowing how frequent each token is | {self.unigram_nats:.2f} |",
            f"| the model before training (upper bound) | {self.bound_before:.2f} |",
            f"| the model after training (upper bound) | {self.bound_after:.2f} |",
            "",
            "| right answers | before | after |",
            "| --- | --- | --- |",
            f"| facts of the texts, filled in | {_of(self.facts_before)} | {_of(self.facts_after)} |",
        ]
        for kind, after in self.answers_after.items():
            before = self.answers_before[kind]
            lines.append(f"| {kind}, exact | {_of(before)} | {_of(after)} |")
            lines.append(
                f"| {kind}, of the right kind | {before.fitting} of {before.asked} | {after.fitting} of {after.asked} |"
            )
        for title, texts in (("Continued", self.continued), ("Filled in", self.filled)):
            lines += ["", f"## {title}"]
            for text in texts:
                lines += ["", f"given: `{text.given}`", "", f"- before: `{_line(text.before)}`"]
                lines.append(f"- after: `{_line(text.after)}`")
        return "\n".join(lines) + "\n"


def _of(score: Score) -> str:
    return f"{score.right} of {score.asked}"


def _line(text: str) -> str:
    return " ".join(text.replace("`", "'").split())
