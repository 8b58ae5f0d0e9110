"""Prompts -> rows to be continued, how much room each has, and results. Knows a tokenizer and no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from unmask.errors import ConfigError
from unmask.generation.options import GenerationOptions
from unmask.generation.rows import Ends
from unmask.generation.trace import Completion
from unmask.lm.prompts import decode, decode_run
from unmask.lm.stops import cut_at_stop, first_stop
from unmask.lm.streaming import Generation


@dataclass(frozen=True)
class TextRow:
    """The ids of a prompt; whether they are a text that is gone on with, so that its end belongs to what follows."""

    ids: list[int]
    is_text: bool = False


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
    return [(with_room(options, len(rows[part[0]].ids)), tuple(part)) for part in parts.values()]


def with_room(options: GenerationOptions, prompt: int) -> GenerationOptions:
    """The options with `max_new_tokens` for a prompt of so many tokens in place of `max_length`."""
    if options.max_length is None:
        return options
    return replace(options, max_new_tokens=options.max_length - prompt, max_length=None)


def room(prompt: int, options: GenerationOptions, limit: int, where: str) -> int:
    """How many tokens may be written after a prompt of `prompt` tokens.

    Raises:
        ConfigError: none, fewer than must be written, or more than the model can read.
    """
    new = options.max_new_tokens if options.max_length is None else options.max_length - prompt
    if new < 1:
        raise ConfigError(
            f"{where} has {prompt:,} tokens; max_length is {options.max_length:,} for prompt and answer together. "
            "Shorten the prompt, or raise max_length."
        )
    named = "max_new_tokens" if options.max_length is None else "max_length"
    if new < options.min_new_tokens:
        raise ConfigError(
            f"min_new_tokens is {options.min_new_tokens:,}, and {named} leaves {where} room for {new:,} new tokens. "
            f"Lower min_new_tokens, or raise {named}."
        )
    if prompt + new > limit:
        raise ConfigError(
            f"{where} has {prompt:,} tokens, {prompt + new:,} with {named}; the "
            f"model was made for {limit:,}. Shorten the prompt, or ask for fewer new tokens."
        )
    return new


def ends_at_stop(options: GenerationOptions, tokenizer: PreTrainedTokenizerBase, row: TextRow) -> Ends | None:
    """What ends a row at a stop string: asks whether one stands in the text written before the first mask."""
    if not options.stop or not options.early_stop:
        return None

    def ends(ids: Sequence[int]) -> bool:
        least = len(_text(row, ids[: options.min_new_tokens], tokenizer)) if options.min_new_tokens else 0
        return first_stop(_text(row, ids, tokenizer), options.stop, least) is not None

    return ends


def continued(
    options: GenerationOptions, tokenizer: PreTrainedTokenizerBase, row: TextRow, done: Completion
) -> Generation:
    """What was written after a prompt, cut before the first stop string."""

    def text_of(ids: Sequence[int]) -> str:
        return _text(row, ids, tokenizer)

    if not options.stop:
        return Generation(text_of(done.token_ids), done.token_ids, done.finish_reason, done.stats, done.trace)
    ids, text, is_cut = cut_at_stop(done.token_ids, options.stop, text_of, options.min_new_tokens)
    stats = replace(done.stats, emitted=len(ids)) if is_cut else done.stats
    return Generation(text, ids, "stop" if is_cut else done.finish_reason, stats, done.trace)


def _text(row: TextRow, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """What ids after a prompt read as."""
    if not row.is_text:
        return decode(ids, tokenizer)
    return decode_run([*row.ids, *ids], len(row.ids), len(row.ids) + len(ids), tokenizer)
