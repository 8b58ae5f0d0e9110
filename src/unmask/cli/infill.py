"""`unmask infill`: fill the blanks of a text. Parsing and printing; the work is `DiffusionLM.stream_infill`."""

from __future__ import annotations

import sys

from unmask.cli import sampling, trace_files
from unmask.cli.options import Option, OptionTable
from unmask.errors import ConfigError

DOES = (
    "Fill the blanks of a text: each [MASK] is one token. Nothing else changes. Without a model, the small base of "
    "this package writes."
)
OWN = (
    Option("text", str | None, None, "Text with blanks; may be given several times, or stand beside the options."),
    Option("text_file", str | None, None, "File with one text per line."),
    Option("trace", str | None, None, trace_files.HELP),
    Option("json", bool, False, "Print the results as one JSON object."),
)


def table() -> OptionTable:
    """The options of the verb."""
    return sampling.sampling_table("infill", DOES, "[TEXT ...]", OWN, block_size=None)


def run(argv: list[str]) -> int:
    """Run `unmask infill`."""
    parsed = sampling.read_arguments(argv, table(), "text")
    if parsed is None:
        return 0
    trace_files.check(parsed["trace"])
    options = sampling.options_from(parsed, trace=parsed["trace"] is not None)
    texts = sampling.texts_from(parsed, "text")
    if not texts:
        raise ConfigError('no text is given. For example: unmask infill "Oslo lies in [MASK]."')
    lm = sampling.load_model(sampling.with_model(parsed))
    results, seconds = sampling.drain(lm.stream_infill(texts, options), lm, len(texts), parsed["show"])
    trace_files.write(parsed["trace"], texts, results, trace_files.About(lm, options, seconds))
    if parsed["json"]:
        print(sampling.as_json(texts, results, seconds))
    else:
        print("\n".join(result.text for result in results))
        print(sampling.summary(results, seconds), file=sys.stderr)
    return 0
