"""`unmask infill`: fill the blanks of a text. Parsing and printing; the work is `DiffusionLM.stream_infill`."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli import sampling, trace_files
from unmask.cli.config import Parsed
from unmask.cli.idle_options import tell_idle
from unmask.cli.options import Option, OptionTable
from unmask.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from unmask.lm import DiffusionLM, Generation, TextStream

DOES = (
    "Fill the blanks of a text: each [MASK] is one token, [MASK:4] are four, [MASK:1-8] one to eight, as many as the "
    "model finds most likely. Nothing else changes. --template fills {name:1-8} and prints the fields; --prefix and "
    "--suffix write what is between them. Without a model, the small base of this package writes."
)
OWN = (
    Option("text", str | None, None, "Text with blanks; may be given several times, or stand beside the options."),
    Option("text_file", str | None, None, "File with one text per line."),
    Option("template", str | None, None, "Text, or a file of it, with fields such as {name:8} or {name:1-8}."),
    Option("prefix", str | None, None, "Text, or @FILE, before what is to be written."),
    Option("suffix", str | None, None, "Text, or @FILE, after it."),
    Option("tokens", str, "1-16", "With --prefix or --suffix: tokens to write between them, N or FROM-TO."),
    Option("trace", str | None, None, trace_files.HELP),
    Option("json", bool, False, "Print the results as one JSON object."),
)


def table() -> OptionTable:
    """The options of the verb."""
    return sampling.sampling_table("infill", DOES, "[TEXT ...]", OWN, block_size=None)


def run(argv: list[str]) -> int:
    """Run `unmask infill`."""
    parsed = sampling.read_arguments(argv, table(), "text", raw=("template", "prefix", "suffix"))
    if parsed is None:
        return 0
    trace_files.check(parsed["trace"])
    options = sampling.options_from(parsed, trace=parsed["trace"] is not None)
    asked = _asked(parsed)
    lm = sampling.load_model(sampling.with_model(parsed))
    tell_idle(parsed, options, fills=True)
    # the lengths of open blanks are found while the stream is made
    began = time.perf_counter()
    stream = _stream(lm, parsed, asked, options)
    results, _ = sampling.drain(stream, lm, len(asked), sampling.shown(parsed))
    seconds = time.perf_counter() - began
    trace_files.write(parsed["trace"], asked, results, trace_files.About(lm, options, seconds))
    if parsed["json"]:
        print(sampling.as_json(asked, results, seconds))
        return 0
    print("\n".join(_shown(parsed, results)))
    print(sampling.summary(results, seconds), file=sys.stderr)
    return 0


def _asked(parsed: Parsed) -> list[Any]:
    """What is to be filled, as it was given: texts, one template, or a prefix and a suffix.

    Raises:
        ConfigError: nothing, or more than one of these.
    """
    is_between = parsed["prefix"] is not None or parsed["suffix"] is not None
    if is_between + (parsed["template"] is not None) + bool(parsed.words or parsed["text_file"]) > 1:
        raise ConfigError("texts, --template, and --prefix with --suffix exclude each other. Give one of them.")
    if is_between:
        _span(parsed["tokens"])
        return [[_text_or_file(parsed["prefix"] or ""), _text_or_file(parsed["suffix"] or "")]]
    if "tokens" in parsed:
        raise ConfigError("--tokens is for --prefix and --suffix. In a text write [MASK:4] or [MASK:1-8].")
    if parsed["template"] is not None:
        return [_template(parsed["template"])]
    texts = sampling.texts_from(parsed, "text")
    if not texts:
        raise ConfigError('no text is given. For example: unmask infill "Oslo lies in [MASK]."')
    return list(texts)


def _stream(lm: DiffusionLM, parsed: Parsed, asked: Sequence[Any], options: Any) -> TextStream:
    if parsed["template"] is not None:
        return lm.stream_template(asked, options)
    if isinstance(asked[0], list):
        (prefix, suffix), tokens = asked[0], _span(parsed["tokens"])
        return lm.stream_between(prefix, suffix, tokens, options)
    return lm.stream_infill(asked, options)


def _shown(parsed: Parsed, results: Sequence[Generation]) -> list[str]:
    """Of a template its fields, of a prefix and a suffix what is between them, and otherwise whole texts."""
    if parsed["template"] is not None:
        return [json.dumps(result.fields, ensure_ascii=False) for result in results]
    if parsed["prefix"] is not None or parsed["suffix"] is not None:
        return [result.written[0] for result in results]
    return [result.text for result in results]


def _span(text: str) -> int | tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if not found:
        raise ConfigError(f'--tokens is "{text}"; it must be a number such as 8, or two such as 1-16.')
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))


def _text_or_file(given: str) -> str:
    return sampling.read_file(given[1:]) if given.startswith("@") else given


def _template(given: str) -> str:
    """A template, given as such or as a file of it.

    Raises:
        ConfigError: it has no field and no blank, and looks like the name of a file that is not there.
    """
    if any(mark in given for mark in "{[<\n"):
        return given
    file = Path(given).expanduser()
    if file.is_file():
        return sampling.read_file(given).rstrip("\n")
    if os.sep in given or file.suffix[1:].isalnum():
        others = [other.name for other in file.parent.glob("*")] if file.parent.is_dir() else []
        raise ConfigError(
            f"--template {given}: there is no such file.{did_you_mean(file.name, others)} Name a file, or give a text "
            "with fields such as {name:1-8}."
        )
    return given
