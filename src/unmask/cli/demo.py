"""`unmask demo`: parsing and printing; the story is `unmask.demo`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from unmask.cli.config import parse, say
from unmask.cli.options import Option, OptionTable
from unmask.demo.options import DemoOptions

if TYPE_CHECKING:
    from unmask.lm import DiffusionLM, TextStream

DOES = (
    "Teach the small base of this package to answer questions about tables, offline, on a CPU, in minutes: a LoRA "
    "adapter; exact match on unseen tables before and after; answers with their canvas visible; a report."
)
PAUSE = 0.06  # seconds per step of the canvas: slow enough to be watched


def table() -> OptionTable:
    """The options of the verb."""
    own = (Option("json", bool, False, "Print the figures as one JSON object on stdout, the story on stderr."),)
    return OptionTable("demo", DOES, (DemoOptions,), (("The command", own),))


def run(argv: list[str]) -> int:
    """Run `unmask demo`."""
    parsed = parse(argv, table())
    if parsed is None:
        return 0
    options = parsed.build(DemoOptions)
    say(parsed.notes)

    from rich.console import Console

    from unmask.cli.canvas_view import tokenizer_look, watch
    from unmask.demo.run import run_demo

    console = Console(stderr=bool(parsed["json"]))

    def show(stream: TextStream, lm: DiffusionLM) -> None:
        watch(stream, tokenizer_look(lm.tokenizer), console, keep=True, pause=PAUSE)

    report = run_demo(options, console=console, watch=show)
    if parsed["json"]:
        print(json.dumps(report.to_dict(), ensure_ascii=False))
    return 0
