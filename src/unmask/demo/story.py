"""The words of the demo: what happens, what each number means, what to try next. Prints, computes nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text as Styled

from unmask.demo.materials import DataFiles, Size, Statement
from unmask.demo.measures import ALL, ANSWER, Score, by_kind, filled_rightly
from unmask.demo.report import DemoReport, Example
from unmask.evaluation.cases import Case
from unmask.lm import DiffusionLM

BAR = 10  # characters of 100 %


def beginning(console: Console, base: DiffusionLM, size: Size) -> None:
    """The first act: what there is."""
    _title(console, "1  The base: it has read tables, and never a question")
    _say(console, f"{size.base}, a {base.family.name} of {base.model.num_parameters():,} parameters, comes with this")
    _say(console, "package. Below a table that it never saw, a sentence lacks a word:")


def filled(console: Console, asked: Sequence[Statement], texts: Sequence[str], when: str) -> None:
    """Statements filled in, before or after fine-tuning."""
    score = filled_rightly(asked, texts)
    if when == "after":
        _say(console, f"Sentences below unseen tables, as in 1: {_of(score)} filled in rightly.")
        return
    first = asked[0]
    _quote(console, f"{first.table}{first.before.strip()} ____{first.after}")
    _say(console, f"  It fills in {_line(texts[0][len(first.table) :])}")
    _say(console, f"  Of {score.asked} such sentences it fills in {score.right} rightly.")


def before(console: Console, questions: Sequence[Mapping[str, Any]], cases: Sequence[Case]) -> None:
    """The second act: what it is to learn, and how it does now."""
    _title(console, "2  Questions about tables, before training")
    first, score = questions[0]["messages"], by_kind(cases)[ALL]
    _quote(console, first[0]["content"])
    _say(console, f"  It answers {_line(cases[0].prediction)!r}; right: {first[1]['content']!r}")
    _say(console, f"  Of {score.asked} such questions about unseen tables it answers {score.right} exactly.")


def training(console: Console, files: DataFiles, steps: int) -> None:
    """The third act: what is learned."""
    _title(console, f"3  Fine-tuning a LoRA adapter, {steps:,} steps on this CPU")
    _say(console, f"Questions with their answers, about other tables: {files.questions}")


def after(
    console: Console,
    before: Mapping[str, Score],
    after: Mapping[str, Score],
    baselines: Mapping[str, Mapping[str, Score]],
) -> None:
    """The fourth act: the same questions again."""
    _title(console, "4  The same questions, after training")
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    heads = ("exact match", "before", "after", "", "", "95 %", *baselines)
    for name in heads:
        justify = "left" if name in ("exact match", "") else "right"
        table.add_column(name, justify=justify, header_style="dim", no_wrap=True)
    for kind, score in after.items():
        low, high = score.interval
        table.add_row(
            kind,
            str(before[kind].right),
            _of(score),
            _percent(score),
            Styled("█" * round(BAR * score.share), "green"),
            f"{100 * low:.0f}-{100 * high:.0f}",
            *(_percent(scores[kind]) for scores in baselines.values()),
            style="bold" if kind == ALL else "",
        )
    console.print(Padding(table, (1, 0, 1, 2), expand=False))
    _say(console, "No table of these questions was trained on. 95 %: what all questions of the kind would")
    _say(console, "score, in per cent. Without a model: majority says the most frequent answer of the kind,")
    _say(console, "copy the cell whose row and column the question names.")


def examples(console: Console, shown: Sequence[Example]) -> None:
    """Right and wrong answers."""
    for example in shown:
        mark = "[green]✓[/green]" if example.is_right else "[red]✗[/red]"
        console.print(f"\n  {mark} ", end="", highlight=False)
        _say(console, _line(example.asked))
        right = "" if example.is_right else f"   (right: {example.expected})"
        _say(console, f"    {_line(example.answer) or '(nothing)'}{right}")


def before_canvas(console: Console, row: Mapping[str, Any]) -> None:
    """What the canvas shows."""
    _title(console, "5  How it writes: all positions at once, the surest first")
    _say(console, f"Right would be: {row['messages'][-1]['content']}\n")


def end(console: Console, report: DemoReport) -> None:
    """Where everything is, and what to try next."""
    _title(console, f"Done in {report.seconds['total']:.0f} s")
    _say(console, f"{report.folder}/report.html  figures, examples, how the answers were written")
    _say(console, f"{report.folder}/lora/report.html  the training run\n\nNow try:")
    for line in next_commands(report):
        console.print(f"  {line}", style="cyan", highlight=False, markup=False, soft_wrap=True)


def next_commands(report: DemoReport) -> list[str]:
    """Commands that go on from here."""
    folder, tokens = report.folder, f"--max_new_tokens {ANSWER.max_new_tokens}"
    adapter, merged, unseen = (
        shlex.quote(f"{folder}/{name}") for name in ("lora", "merged", "data/questions_unseen.jsonl")
    )
    return [
        f"unmask generate --show --model {adapter} {tokens} --chat_template true {_quoted(report.examples[0].whole)}",
        f"unmask infill --show --model {adapter} {_quoted(report.filled.given)}",
        f"unmask eval tables --model_name_or_path {adapter} --dataset_args {unseen} {tokens}",
        f"unmask merge --lora_path {adapter} --merge_path {merged}",
        f"unmask chat {merged} {tokens}",
        "unmask demo --seed 1",
    ]


def _quoted(text: str) -> str:
    """A text as one word of a shell, on one line."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{escaped}'"


def _title(console: Console, text: str) -> None:
    console.print()
    console.print(text, style="bold", highlight=False)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _quote(console: Console, text: str) -> None:
    console.print(Padding(Styled(text, "italic"), (0, 0, 0, 4), expand=False))


def _line(text: str) -> str:
    """On one line, and without what could move the cursor."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _of(score: Score) -> str:
    return f"{score.right} of {score.asked}"


def _percent(score: Score) -> str:
    return f"{100 * score.share:.0f} %"
