"""The command `unmask VERB`: finds the verb, runs it, turns a user's mistake into one paragraph and exit code 2.

A verb's module is imported only when the verb is called, so that `unmask --help` loads neither torch nor transformers.
This file knows no option of any verb.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from unmask import __version__
from unmask.errors import ConfigError, UnmaskError, nearest


@dataclass(frozen=True)
class Verb:
    """A verb: where its function `(argv) -> exit code` lives, and what it does."""

    home: str
    does: str


VERBS = {
    "demo": Verb("unmask.cli.demo:run", "train a small model on this machine, show it before and after"),
    "pretrain": Verb("unmask.cli.train:pretrain", "train on plain text, from scratch or onwards"),
    "sft": Verb("unmask.cli.train:sft", "fine-tune on conversations"),
    "prepare": Verb("unmask.cli.prepare:run", "tokenise data beforehand; make conversations of corpora of tables"),
    "convert": Verb("unmask.cli.convert:run", "make a diffusion model of an autoregressive one"),
    "generate": Verb("unmask.cli.generate:run", "continue prompts"),
    "infill": Verb("unmask.cli.infill:run", "fill the blanks of a text"),
    "chat": Verb("unmask.cli.chat:run", "talk to a model"),
    "eval": Verb("unmask.cli.eval:run", "score a model: benchmarks, questions about tables, likelihoods; compare two"),
    "study": Verb("unmask.cli.study:run", "compare diffusion with autoregressive where data are few, over many epochs"),
    "merge": Verb("unmask.cli.merge:run", "fold a LoRA adapter into its base, on a CPU"),
    "show": Verb("unmask.cli.show:run", "list families, strategies, caches, schedules, objectives, other spellings"),
}

# Words that people type for a verb and that resemble none of ours, or the wrong one.
OTHER_WORDS = {
    "train": ("sft", "pretrain"),
    "finetune": ("sft",),
    "fine_tune": ("sft",),
    "pt": ("pretrain",),
    "sample": ("generate",),
    "run": ("generate", "chat"),
    "fill": ("infill",),
    "adapt": ("convert",),
    "list": ("show",),
    "info": ("show",),
}


def main(argv: list[str] | None = None) -> int:
    """Run `unmask` with `argv` (default: the process's own arguments) and return the exit code.

    0 success; 2 a mistake of the user, told in one paragraph on stderr; 130 interrupted. `--debug`, anywhere,
    lets the exception through.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    switches = [place for place, word in enumerate(words) if word == "--debug" and not _has_value(words, place)]
    debug = bool(switches)
    words = [word for place, word in enumerate(words) if place not in switches]
    try:
        return _dispatch(words)
    except UnmaskError as error:
        if debug:
            raise
        print(f"unmask: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        return 130
    except BrokenPipeError:
        # The reader (`head`, a closed pager) has what it wanted; stdout must not be flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _has_value(words: list[str], place: int) -> bool:
    """Whether this `--debug` is the option of transformers' `TrainingArguments` with that name."""
    return words[place + 1 : place + 2] in (["underflow_overflow"], ["tpu_metrics_debug"])


def _dispatch(words: list[str]) -> int:
    while words and not words[0].strip():
        words.pop(0)
    if words[:1] == ["help"] and len(words) > 1:
        return _entry(words[1])(["--help"])
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("--version", "-V"):
        print(f"unmask {__version__}")
        return 0
    return _entry(words[0])(words[1:])


def _entry(word: str) -> Callable[[list[str]], int]:
    if word not in VERBS:
        raise ConfigError(_no_such_verb(word))
    module, _, attribute = VERBS[word].home.partition(":")
    return getattr(import_module(module), attribute)


def _no_such_verb(word: str) -> str:
    if word.startswith("-"):
        return f'the first word must be a command, got the option "{word}". Commands: {", ".join(VERBS)}.'
    guess = nearest(word.replace("-", "_"), [*VERBS, *OTHER_WORDS])
    meant = " or ".join(f'"{verb}"' for verb in OTHER_WORDS.get(guess or "", (guess,)))
    hint = f" Did you mean {meant}?" if guess else ""
    return f'no command "{word}".{hint} Commands: {", ".join(VERBS)}.'


def _overview() -> str:
    lines = "\n".join(f"  {name:<10}{verb.does}" for name, verb in VERBS.items())
    return textwrap.dedent("""\
        usage: unmask COMMAND [--option value ...]

        Masked diffusion language models: train them, sample from them, fill in with them.

        commands:
        {lines}

        options of every command:
          -h, --help    its options with their defaults
          --debug       show the traceback of an error
          --version     print the version

        Start with:  unmask demo""").format(lines=lines)
