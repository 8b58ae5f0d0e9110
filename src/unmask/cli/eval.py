"""`unmask eval --tasks ...`, `unmask eval WHAT`: finds the evaluation. Parsing and printing are in a file per kind."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from unmask.errors import ConfigError, did_you_mean

HARNESS = "unmask.cli.eval_harness:run"
KINDS = {
    "tables": ("unmask.cli.eval_tables:run", "questions about tables, or any conversations with right answers"),
    "likelihood": ("unmask.cli.eval_likelihood:run", "nats per token, perplexity, bits per byte of texts"),
    "compare": ("unmask.cli.eval_compare:run", "two evaluations of the same cases: paired differences"),
}


def run(argv: list[str]) -> int:
    """Run `unmask eval --tasks ...` or `unmask eval WHAT ...`.

    Raises:
        ConfigError: nothing is named, or something that there is no evaluation of.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return _found(HARNESS)(["--help"]) if argv else 0
    if argv[0].startswith("--"):
        return _found(HARNESS)(argv)
    return _entry(argv[0])(argv[1:])


def _entry(word: str) -> Callable[[list[str]], int]:
    if word not in KINDS:
        raise ConfigError(
            f'the first word says what is evaluated, got "{word}". Evaluations: {", ".join(KINDS)}, or --tasks '
            f"for those of lm-evaluation-harness.{did_you_mean(word, KINDS)} Example: unmask eval tables --help"
        )
    return _found(KINDS[word][0])


def _found(home: str) -> Callable[[list[str]], int]:
    module, _, attribute = home.partition(":")
    return getattr(import_module(module), attribute)


def _overview() -> str:
    told = {"--tasks a,b": "tasks of lm-evaluation-harness"} | {name: does for name, (_, does) in KINDS.items()}
    lines = "\n".join(f"  {name:<13}{does}" for name, does in told.items())
    return (
        f"usage: unmask eval --tasks a,b [--option value ...]\n       unmask eval WHAT [--option value ...]\n\n"
        f"evaluations:\n{lines}\n\nOptions of the last ones: unmask eval tables --help\n"
    )
