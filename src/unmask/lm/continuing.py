"""Prompts -> rows to be continued, how much room each has, and results. Knows a tokenizer and no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from unmask.errors import ConfigError
from unmask.generation.options import GenerationOptions
from unmask.generation.trace import Completion
from unmask.lm.prompts import Prompt, decode, decode_run, encode
from unmask.lm.stops import cut_at_stop
from unmask.lm.streaming import Generation


@dataclass(frozen=True)
class TextRow:
    """The ids of a prompt; whether they are a text that is gone on with, so that its end belongs to what follows."""

    ids: list[int]
    is_text: bool = False


def text_rows(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[TextRow]:
    """The rows of prompts.

    Raises:
        ConfigError, DataError: as `unmask.lm.prompts.encode`.
    """
    return [TextRow(encode(prompt, tokenizer), isinstance(prompt, str)) for prompt in prompts]


def rooms(
    rows: Sequence[TextRow], options: GenerationOptions, limit: int
) -> list[tuple[GenerationOptions, tuple[int, ...]]]:
    """Rows with the same number of new tokens, and the options that ask for so many.

    Raises:
        ConfigError: a prompt leaves no room for an answer, or both together exceed `limit`, what the model can read.
    """
    parts: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        parts.setdefault(room(len(row.ids), options, limit, f"prompt {number}"), []).append(number)
    return [
        (options if options.max_length is None else replace(options, max_new_tokens=new, max_length=None), tuple(part))
        for new, part in parts.items()
    ]


def room(prompt: int, options: GenerationOptions, limit: int, where: str) -> int:
    """How many tokens may be written after a prompt of `prompt` tokens.

    Raises:
        ConfigError: none, or more than the model can read.
    """
    new = options.max_new_tokens if options.max_length is None else options.max_length - prompt
    if new < 1:
        raise ConfigError(
            f"{where} has {prompt:,} tokens; max_length is {options.max_length:,} for prompt and answer together. "
            "Shorten the prompt, or raise max_length."
        )
    if prompt + new > limit:
        named = "max_new_tokens" if options.max_length is None else "max_length"
        raise ConfigError(
            f"{where} has {prompt:,} tokens, {prompt + new:,} with {named}; the "
            f"model was made for {limit:,}. Shorten the prompt, or ask for fewer new tokens."
        )
    return new


def continued(
    row: TextRow, done: Completion, options: GenerationOptions, tokenizer: PreTrainedTokenizerBase
) -> Generation:
    """What was written after a prompt, cut before the first stop string."""

    def text_of(ids: Sequence[int]) -> str:
        if not row.is_text:
            return decode(ids, tokenizer)
        return decode_run([*row.ids, *ids], len(row.ids), len(row.ids) + len(ids), tokenizer)

    ids, text, is_cut = done.token_ids, "", False
    if options.stop:
        ids, text, is_cut = cut_at_stop(ids, options.stop, text_of, options.min_new_tokens)
    else:
        text = text_of(ids)
    stats = replace(done.stats, emitted=len(ids)) if is_cut else done.stats
    return Generation(text, ids, "stop" if is_cut else done.finish_reason, stats, done.trace)
