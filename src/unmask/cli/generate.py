"""`unmask generate`: continue prompts. Parsing and printing; the work is `DiffusionLM.stream`.

The rows of a file (`--input`) are for `generate_file`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from unmask.cli import generate_file, sampling, trace_files
from unmask.cli.config import Parsed
from unmask.cli.idle_options import tell_idle
from unmask.cli.options import Option, OptionTable
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.generation.options import GenerationOptions
    from unmask.lm import DiffusionLM, Generation

DOES = (
    "Continue prompts. Without a prompt, on a terminal or with an empty input, two built-in prompts are continued "
    "in one batch and, where the model can do that, the blanks of a built-in text are filled. Without a model, the "
    "small base of this package writes. --input FILE --output FILE continues the prompts of a file and goes on where "
    "it was interrupted."
)
OWN = (
    Option("prompt", str | None, None, "Text to continue; may be given several times, or stand beside the options."),
    Option("prompt_file", str | None, None, "File with one prompt per line."),
    Option(
        "messages", str | None, None, 'Conversation to answer: JSON, or a file of it: [{"role": ..., "content": ...}].'
    ),
    Option("chat_template", bool, False, "Put each prompt through the chat template, as a user's message."),
    Option("trace", str | None, None, trace_files.HELP),
    Option("json", bool, False, "Print the results as one JSON object."),
    *generate_file.OPTIONS,
)


@dataclass(frozen=True)
class Telling:
    """What is shown where nothing is asked for.

    Attributes:
        prompts: texts to go on with. blanks: texts with blanks.
        new_tokens: written after each prompt unless the user says how many; None: the usual number.
    """

    prompts: tuple[str, ...]
    blanks: tuple[str, ...]
    new_tokens: int | None = None


OF_ANYTHING = Telling(
    ("The three primary colors are", "Once upon a time, there was a"),
    (
        "The capital of France is[MASK], and the capital of Italy is[MASK].",
        "In the morning she[MASK][MASK][MASK], and in the evening she went home.",
    ),
)
_CITIES = (
    "| city | country | market day |\n| --- | --- | --- |\n| Oslo | Norway | Friday |\n| Rome | Italy | Sunday |\n"
)
_ANIMALS = "| animal | age | food |\n| --- | --- | --- |\n| owl | 12 | insects |\n| lion | 5 | meat |\n"
# the small base of this package knows nothing else, and has not learned where to stop
OF_TABLES = Telling(
    (f"{_CITIES} Oslo lies in", f"{_ANIMALS} The owl"),
    (f"{_CITIES} Rome holds its market on [MASK]. Oslo lies in [MASK].",),
    new_tokens=16,
)


def table() -> OptionTable:
    """The options of the verb."""
    return sampling.sampling_table("generate", DOES, "[PROMPT ...]", OWN)


def run(argv: list[str]) -> int:
    """Run `unmask generate`."""
    parsed = sampling.read_arguments(argv, table(), "prompt")
    if parsed is None:
        return 0
    trace_files.check(parsed["trace"])
    options = sampling.options_from(parsed, trace=parsed["trace"] is not None)
    if parsed["input"] is not None:
        return generate_file.run(parsed, options)
    if parsed["output"] is not None:
        raise ConfigError("--output is for the results of --input. Name a file of prompts: --input prompts.jsonl")
    prompts = prompts_from(parsed)
    parsed = sampling.with_model(parsed)
    lm = sampling.load_model(parsed)
    options = sampling.own_blocks(options, parsed, lm)
    tell_idle(parsed, options)
    if not prompts:
        shown = OF_TABLES if parsed["model_name_or_path"] == sampling.SMALL_BASE else OF_ANYTHING
        return _show_off(lm, options, parsed, shown)
    stream = lm.stream(prompts, options)
    results, seconds = sampling.drain(stream, lm, len(prompts), sampling.shown(parsed))
    trace_files.write(parsed["trace"], prompts, results, trace_files.About(lm, options, seconds))
    if parsed["json"]:
        print(sampling.as_json(prompts, results, seconds))
    else:
        _print(prompts, results)
        print(sampling.summary(results, seconds), file=sys.stderr)
    return 0


def prompts_from(parsed: Parsed) -> list[Any]:
    """The prompts asked for: texts, or conversations where the chat template is wanted.

    Raises:
        ConfigError: prompts and messages at once, or messages that are none.
    """
    if parsed["messages"] is not None:
        if parsed.words or parsed["prompt_file"] is not None:
            raise ConfigError("--messages and a prompt are both given. Give one of them.")
        return [read_messages(parsed["messages"])]
    texts = sampling.texts_from(parsed, "prompt")
    return [[{"role": "user", "content": text}] for text in texts] if parsed["chat_template"] else texts


def read_messages(given: str) -> list[dict[str, Any]]:
    """A conversation, from JSON text or from a file of it.

    Raises:
        ConfigError: it is no JSON, or no list of messages.
    """
    text = given if given.lstrip().startswith(("[", "{")) else sampling.read_file(given)
    try:
        messages = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--messages is no JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    if isinstance(messages, dict):
        messages = messages.get("messages")
    if not isinstance(messages, list) or not messages or not all(_is_message(entry) for entry in messages):
        raise ConfigError('--messages must be a list such as [{"role": "user", "content": "Hello"}].')
    return messages


def _is_message(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("role", "content"))


def _print(prompts: Sequence[Any], results: Sequence[Generation]) -> None:
    """A text with its continuation, which read as one; of a conversation only the answer."""
    for number, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
        if number:
            print()
        print(f"{prompt}{result.text}" if isinstance(prompt, str) else result.text)


def _show_off(lm: DiffusionLM, options: GenerationOptions, parsed: Parsed, shown: Telling) -> int:
    """Both things a masked model can do; an autoregressive one fills no blanks, and a grammar has another length."""
    show = sampling.shown(parsed)
    if lm.model.facts.attention == "causal" or options.regex is not None or options.json_schema is not None:
        shown = replace(shown, blanks=())
    if shown.new_tokens and "max_new_tokens" not in parsed:
        steps = options.steps if "steps" in parsed else shown.new_tokens
        options = replace(options, max_new_tokens=shown.new_tokens, steps=steps)
    continued, seconds = sampling.drain(lm.stream(list(shown.prompts), options), lm, len(shown.prompts), show)
    filled, more = list["Generation"](), 0.0
    if shown.blanks:
        whole = sampling.one_block(options, parsed)
        filled, more = sampling.drain(lm.stream_infill(list(shown.blanks), whole), lm, len(shown.blanks), show)
    prompts, results = [*shown.prompts, *shown.blanks], [*continued, *filled]
    trace_files.write(parsed["trace"], prompts, results, trace_files.About(lm, options, seconds + more))
    if parsed["json"]:
        print(sampling.as_json(prompts, results, seconds + more))
        return 0
    print("Two prompts, continued in one batch:\n")
    _print(shown.prompts, continued)
    if shown.blanks:
        print("\nBlanks, filled:\n")
    for blank, result in zip(shown.blanks, filled, strict=True):
        print(f"{blank}\n{result.text}\n")
    print(sampling.summary(results, seconds + more), file=sys.stderr)
    return 0
