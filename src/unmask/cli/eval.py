"""`unmask eval WHAT`: finds the evaluation. Parsing and printing are in a file per kind."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from unmask.errors import ConfigError, did_you_mean

KINDS = {"tables": ("unmask.cli.eval_tables:run", "questions about tables, or any conversations with right answers")}


def run(argv: list[str]) -> int:
    """Run `unmask eval WHAT ...`.

    Raises:
        ConfigError: nothing is named, or something that there is no evaluation of.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    return _entry(argv[0])(argv[1:])


def _entry(word: str) -> Callable[[list[str]], int]:
    if word not in KINDS:
        raise ConfigError(
            f'the first word says what is evaluated, got "{word}". Evaluations: {", ".join(KINDS)}.'
            f"{did_you_mean(word, KINDS)} Example: unmask eval tables --help"
        )
    module, _, attribute = KINDS[word][0].partition(":")
    return getattr(import_module(module), attribute)


def _overview() -> str:
    lines = "\n".join(f"  {name:<12}{does}" for name, (_, does) in KINDS.items())
    return (
        f"usage: unmask eval WHAT [--option value ...]\n\nevaluations:\n{lines}\n\nOptions: unmask eval tables --help"
    )
