"""`unmask generate`: continue prompts. Parsing and printing; the work is `DiffusionLM.stream`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unmask.cli import sampling, trace_files
from unmask.cli.config import Parsed
from unmask.cli.options import Option, OptionTable
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.generation.options import GenerationOptions
    from unmask.lm import DiffusionLM, Generation

DOES = (
    "Continue prompts. Without a prompt, on a terminal or with an empty input, two built-in prompts are continued "
    "in one batch and the blanks of two built-in sentences are filled."
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
)
BUILT_IN_PROMPTS = ("The three primary colors are", "Once upon a time, there was a")
BUILT_IN_BLANKS = (
    "The capital of France is[MASK], and the capital of Italy is[MASK].",
    "In the morning she[MASK][MASK][MASK], and in the evening she went home.",
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
    prompts = prompts_from(parsed)
    lm = sampling.load_model(parsed)
    if not prompts:
        return _show_off(lm, options, parsed)
    stream = lm.stream(prompts, options)
    results, seconds = sampling.drain(stream, lm, len(prompts), parsed["show"])
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
    text = given if given.lstrip().startswith("[") else sampling.read_file(given)
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


def _show_off(lm: DiffusionLM, options: GenerationOptions, parsed: Parsed) -> int:
    """Both things a masked model can do, on two built-in texts each."""
    continued, seconds = sampling.drain(
        lm.stream(list(BUILT_IN_PROMPTS), options), lm, len(BUILT_IN_PROMPTS), parsed["show"]
    )
    whole = sampling.one_block(options, parsed)
    filled, more = sampling.drain(
        lm.stream_infill(list(BUILT_IN_BLANKS), whole), lm, len(BUILT_IN_BLANKS), parsed["show"]
    )
    prompts, results = [*BUILT_IN_PROMPTS, *BUILT_IN_BLANKS], [*continued, *filled]
    trace_files.write(parsed["trace"], prompts, results, trace_files.About(lm, options, seconds + more))
    if parsed["json"]:
        print(sampling.as_json(prompts, results, seconds + more))
        return 0
    print("Two prompts, continued in one batch:\n")
    _print(BUILT_IN_PROMPTS, continued)
    print("\nTwo texts, their blanks filled:\n")
    for blank, result in zip(BUILT_IN_BLANKS, filled, strict=True):
        print(f"{blank}\n{result.text}\n")
    print(sampling.summary(results, seconds + more), file=sys.stderr)
    return 0
