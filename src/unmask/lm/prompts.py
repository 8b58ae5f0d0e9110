"""Prompts of every kind -> token ids, and ids -> text. Knows a tokenizer of transformers and no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from unmask.data.chat import check_unicode, prompt_ids
from unmask.errors import ConfigError

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Sequence[int] | Messages


def encode(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids of a prompt: a text, a list of ids, or messages, which go through the chat template.

    Raises:
        ConfigError: it is none of these.
        DataError: the template refuses the messages, or a text is no Unicode.
    """
    if isinstance(prompt, str):
        check_unicode(prompt)
        # verbose: transformers warns about any text longer than its guess of the model's limit
        return list(tokenizer(prompt, verbose=False)["input_ids"])
    if isinstance(prompt, Sequence) and all(isinstance(entry, Mapping) for entry in prompt) and prompt:
        for entry in cast(Messages, prompt):
            if "role" not in entry or "content" not in entry:
                raise ConfigError(f'a message has the keys {sorted(entry)}; it needs "role" and "content".')
        return prompt_ids(prompt, tokenizer)  # type: ignore[arg-type]
    if isinstance(prompt, Sequence) and all(_is_id(entry) for entry in prompt):
        return list(cast("Sequence[int]", prompt))
    raise ConfigError(
        f"a prompt is a {type(prompt).__name__}; it must be a text, a list of token ids, or a list of messages "
        'such as {"role": "user", "content": "Hello"}.'
    )


def several(prompts: Any) -> Sequence[Any]:
    """A list of prompts, whether one or several were given.

    Raises:
        ConfigError: they are neither.
    """
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Sequence):
        raise ConfigError(
            f"prompts are a {type(prompts).__name__}; give a text, token ids, messages, or a list of them."
        )
    is_one = bool(prompts) and all(_is_id(entry) or isinstance(entry, Mapping) for entry in prompts)
    return [prompts] if is_one else prompts


def decode(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of ids, without special tokens."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return cast(str, text)


def decode_run(token_ids: Sequence[int], first: int, last: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """Text of some tokens in their context: many tokenizers drop a space at the start of what they decode."""
    before, whole = decode(token_ids[:first], tokenizer), decode(token_ids[:last], tokenizer)
    return whole[len(before) :] if whole.startswith(before) else decode(token_ids[first:last], tokenizer)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
