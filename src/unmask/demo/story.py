"""The words of the demo: what happens, what each number means, what to try next. Prints, computes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text as Styled

from unmask.demo.measures import Score
from unmask.demo.report import DemoReport, Text
from unmask.demo.seedling import DataFiles, read_rows


def beginning(console: Console, folder: Path, data: DataFiles, figures: dict[str, Any]) -> None:
    """The first act: what there is to learn from, and what is to learn."""
    _title(console, "1  From nothing: data, a tokenizer, an empty model")
    _say(console, f"Texts about invented tables: {data.texts}, {figures['train_tokens']:,} tokens. One of them:")
    _quote(console, read_rows(data.texts)[0]["text"])
    _say(console, f"A tokenizer of {figures['vocab_size']:,} tokens learned from them, and a LLaDA of")
    _say(console, f"{figures['parameters']:,} parameters, so far only a config.json: {folder / 'base'}")


def before_training(console: Console, figures: dict[str, Any], bound: float) -> None:
    """The yardsticks, before training begins."""
    _title(console, f"2  Pretraining, {figures['steps']['pretrain']:,} steps on this CPU")
    _say(console, "A text gets some of its tokens masked; the model learns to tell what they were.")
    _say(console, "The bound says how well it knows unseen texts, in nats per token; less is better:")
    _row(console, figures["uniform_nats"], "knowing nothing: every token as likely as any other")
    _row(console, figures["unigram_nats"], "counting: knowing only how frequent each token is")
    _row(console, bound, "the model now, its weights random")


def after_training(console: Console, figures: dict[str, Any], bound: float, facts: Score) -> None:
    """What pretraining brought."""
    is_better = bound < figures["unigram_nats"]
    _row(console, bound, "the model after training", style="bold green" if is_better else "bold red")
    verdict = "well below counting: it uses the context" if is_better else "not below counting: train longer"
    _say(console, f"That is {verdict}. It fills in {_of(facts)} facts of the texts")
    _say(console, '(such as "Oslo lies in ____").')


def before_canvas(console: Console) -> None:
    """What the canvas shows."""
    _title(console, "3  Writing: all positions at once, the surest first")


def texts(console: Console, continued: Iterable[Text], filled: Iterable[Text]) -> None:
    """Samples before and after."""
    for text in continued:
        _say(console, "")
        _pair(console, f"{text.given} ...", text)
    _say(console, "\nBlanks, filled by looking at both sides of them:")
    for text in filled:
        _pair(console, text.given, text)


def before_questions(console: Console, row: dict[str, Any]) -> None:
    """What fine-tuning is for."""
    _title(console, "4  Fine-tuning: questions about tables that it never saw")
    _quote(console, f"{row['messages'][0]['content']}\n-> {row['messages'][1]['content']}")


def end(console: Console, report: DemoReport) -> None:
    """The results, and what to try next."""
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for name in ("question", "fitting before", "after", "exact before", "after"):
        table.add_column(name, justify="left" if name == "question" else "right", header_style="dim")
    for kind, after in report.answers_after.items():
        before = report.answers_before[kind]
        fitting = (f"{score.fitting} of {score.asked}" for score in (before, after))
        table.add_row(kind, *fitting, _of(before), _of(after))
    console.print(Padding(table, (1, 0, 1, 2), expand=False))
    _say(console, "Fitting: a name where a name is asked for, a number where a number is. Exact: the one")
    _say(console, "in the table; a coin gets half of the comparisons, superlatives and verifications.")
    _say(console, "The form is learned in a minute; to read a value out of any table takes far longer")
    _say(console, "training than a demo has.")
    _title(console, f"Done in {report.seconds['total']:.0f} s")
    _say(console, f"report: {report.folder}/report.md\n\nNow try:")
    for line in next_commands(report.folder):
        console.print(f"  {line}", style="cyan", highlight=False, markup=False, soft_wrap=True)


def next_commands(folder: str) -> list[str]:
    """Commands that go on from here."""
    pretrained, tuned, data = f'"{folder}/pretrain"', f'"{folder}/sft"', f'"{folder}/data/texts.jsonl"'
    return [
        f'unmask generate --show --model {pretrained} --temperature 0.5 --max_new_tokens 40 "The members of a club."',
        f'unmask infill --show --model {pretrained} "The eagle counts as a kind of[MASK]."',
        f"unmask chat --model {tuned} --max_new_tokens 12",
        f'unmask pretrain --model_name_or_path {pretrained} --dataset_args {data} --output_dir "{folder}/longer"',
        "unmask demo --seed 1",
    ]


def _title(console: Console, text: str) -> None:
    console.print()
    console.print(text, style="bold", highlight=False)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _quote(console: Console, text: str) -> None:
    console.print(Padding(Styled(text, "italic"), (0, 0, 0, 4), expand=False))


def _row(console: Console, nats: float, meaning: str, style: str = "") -> None:
    console.print(Styled(f"  {nats:6.2f}  {meaning}", style))


def _pair(console: Console, given: str, text: Text) -> None:
    console.print(Styled(given, "dim"))
    console.print(Padding(Styled.assemble(("before  ", "dim"), _line(text.before)), (0, 0, 0, 2), expand=False))
    console.print(Padding(Styled.assemble(("after   ", "bold green"), _line(text.after)), (0, 0, 0, 2), expand=False))


def _line(text: str) -> str:
    """On one line, and without what could move the cursor."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _of(score: Score) -> str:
    return f"{score.right} of {score.asked}"
