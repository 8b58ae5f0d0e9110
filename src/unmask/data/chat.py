"""Conversations -> token ids, and which of them an answer consists of.

The chat template is rendered to text once and that text is tokenised once; what belongs to an answer is found as
spans of characters and carried over to tokens. An answer is what the model itself has to write: everything after the
generation prompt, its end-of-turn token included, and nothing of what the template puts behind that. A conversation
stops where its last answer does. Needs only a fast tokenizer of transformers with a `chat_template`; knows nothing of
files or of padding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from jinja2 import TemplateError

from unmask.errors import DataError

Messages = Sequence[dict[str, str]]
Span = tuple[int, int]


class Encoded(NamedTuple):
    """A conversation as token ids, and for each whether it may be noised and is learned."""

    input_ids: list[int]
    may_noise: list[bool]


def encode_conversation(
    messages: Messages,
    tokenizer: Any,
    *,
    mask_prompt_loss: bool = True,
    train_turns: Literal["all", "last"] = "all",
) -> Encoded:
    """One conversation as token ids with its answers marked.

    A token that covers characters on both sides of an edge goes where its first character that is no space lies, so a
    space glued to an answer's first word does not cost that word, and a newline glued to a template's word is not
    learned. Special tokens written out in a message are tokenised as plain text.

    What the template puts behind a last answer (ChatML's newline) is left out, whatever is learned and by whichever
    objective: sampling stops at the end of the answer and never shows it, but in training it would stand, seldom or
    never hidden, one place behind the end, and so tell how long the answer is. A conversation that goes on after its
    last answer is kept whole.

    Args:
        messages: `{"role", "content"}` in order.
        tokenizer: a fast tokenizer with `chat_template`; nothing is added around what the template writes.
        mask_prompt_loss: only answers are marked; False: every token that is kept.
        train_turns: mark every assistant turn, or only the last one.

    Raises:
        DataError: a message contains the mask token, or the template refuses the conversation.
    """
    return encode_conversations([messages], tokenizer, mask_prompt_loss=mask_prompt_loss, train_turns=train_turns)[0]


def encode_conversations(
    conversations: Sequence[Messages],
    tokenizer: Any,
    *,
    mask_prompt_loss: bool = True,
    train_turns: Literal["all", "last"] = "all",
) -> list[Encoded]:
    """`encode_conversation` for many, with one call of the tokenizer."""
    for messages in conversations:
        check_no_mask_token((message["content"] for message in messages), tokenizer)
    texts = [_render(messages, tokenizer) for messages in conversations]
    tokenised = _tokenise(texts, conversations, tokenizer)
    encoded = []
    for messages, text, (ids, offsets) in zip(conversations, texts, tokenised, strict=True):
        spans = answer_spans(messages, text, tokenizer)
        flags = _inside(offsets, text, spans if train_turns == "all" else spans[-1:])
        length = _length(messages, flags)
        encoded.append(Encoded(ids[:length], flags[:length] if mask_prompt_loss else [True] * length))
    return encoded


def _length(messages: Messages, is_answer: list[bool]) -> int:
    """How many tokens to keep: up to the last answer's end, where the conversation ends with an answer."""
    ends_with_answer = messages[-1]["role"] == "assistant" and any(is_answer)
    return len(is_answer) - (is_answer[::-1].index(True) if ends_with_answer else 0)


def check_no_mask_token(texts: Any, tokenizer: Any) -> None:
    """Refuse texts that spell out the mask token.

    Raises:
        DataError: one of them does.
    """
    mask = tokenizer.mask_token
    if mask and any(mask in text for text in texts):
        raise DataError(
            f'contains the mask token "{mask}"; the model would see it as noise. Write it differently in the data, '
            "or leave such rows out with --skip_bad_rows true"
        )


def prompt_ids(messages: Messages, tokenizer: Any) -> list[int]:
    """The ids of a conversation that the model is to answer: up to the end of the generation prompt.

    Raises:
        DataError: the template refuses the conversation, or a message is no Unicode text.
    """
    for message in messages:
        check_unicode(message["content"])
    return _applied(tokenizer, messages, add_generation_prompt=True, tokenize=True, return_dict=False)


def check_unicode(text: Any) -> None:
    """Refuse a text with half of a surrogate pair: what a command line makes of bytes that are not UTF-8.

    Raises:
        DataError: it is one.
    """
    try:
        str(text).encode()
    except UnicodeEncodeError as problem:
        raise DataError(f"character {problem.start + 1} of a prompt is no Unicode. Write the prompt as UTF-8") from None


# Where the answers are


def answer_spans(messages: Messages, text: str, tokenizer: Any) -> list[Span]:
    """Spans of characters of `text` (the rendered conversation) that the assistant turns have to write, in order."""
    if _marks_generation(tokenizer.chat_template):
        written = _generation_spans(messages, tokenizer)
    else:
        written = [_written_span(messages, turn, text, tokenizer) for turn in _assistant_turns(messages)]
    if not written:
        return []
    end = _end_of_turn(text[written[-1][1] :], tokenizer)
    return [(start, stop + len(end) if text.startswith(end, stop) else stop) for start, stop in written]


def _assistant_turns(messages: Messages) -> list[int]:
    return [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]


def _written_span(messages: Messages, turn: int, text: str, tokenizer: Any) -> Span:
    """From the end of the generation prompt to the end of the answer's content, as this template renders it.

    The content is what changes when only that message is replaced; rendering the conversation up to a turn would not
    show it, since templates strip reasoning from all but the last answer. The generation prompt counts only where it
    is in fact how the text goes on: some templates write an empty <think></think> into it, whatever the answer is.
    """
    marker = _unused_character(text)
    replaced = [*messages[:turn], {**messages[turn], "content": marker}, *messages[turn + 1 :]]
    other = _render(replaced, tokenizer)
    start = _common_prefix(text, other)
    stop = len(text) - _common_prefix(text[start:][::-1], other[start:][::-1])
    return _after_prompt(messages[:turn], text, start, tokenizer), max(start, stop)


def _unused_character(text: str) -> str:
    # Private use: no template treats one of these specially.
    return next(letter for letter in map(chr, range(0xE000, 0xF900)) if letter not in text)


def _after_prompt(before: Messages, text: str, content: int, tokenizer: Any) -> int:
    """Where the generation prompt ends, if the conversation goes on from it; else where the content starts.

    A template that knows no generation prompt leaves the answer's header to nobody: only a space before the content is
    taken into the answer then.
    """
    if not before:
        return content
    prompt = _render(before, tokenizer, add_generation_prompt=True)
    if len(prompt) > content or not text.startswith(prompt):
        return content
    knows = "add_generation_prompt" in str(tokenizer.chat_template)
    return len(prompt) if knows or not text[len(prompt) : content].strip() else content


def _common_prefix(left: str, right: str) -> int:
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _end_of_turn(after: str, tokenizer: Any) -> str:
    """How an answer ends, from what follows the last one: up to the first special token; without one, up to the space
    at the very end."""
    found = _special_pattern(tokenizer).search(after)
    return after[: found.end()] if found else after.rstrip()


def _marks_generation(template: Any) -> bool:
    return isinstance(template, str) and re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def _generation_spans(messages: Messages, tokenizer: Any) -> list[Span]:
    """Spans that the template itself marks with {% generation %}."""
    marked = _applied(
        tokenizer,
        messages,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
    )
    spans: list[Span] = []
    before = 0
    for flag, (start, stop) in zip(marked["assistant_masks"], marked["offset_mapping"], strict=True):
        if flag and before:
            spans[-1] = (spans[-1][0], stop)
        elif flag:
            spans.append((start, stop))
        before = flag
    return spans


# Rendering and tokenising


def _render(messages: Messages, tokenizer: Any, add_generation_prompt: bool = False) -> str:
    return _applied(tokenizer, messages, tokenize=False, add_generation_prompt=add_generation_prompt)


def _applied(tokenizer: Any, messages: Messages, **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(list(messages), **options)
    except (TemplateError, TypeError, ValueError, OverflowError) as problem:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(f"cannot be written with the chat template (roles: {roles}): {problem}") from problem


def _tokenise(
    texts: list[str], conversations: Sequence[Messages], tokenizer: Any
) -> list[tuple[list[int], list[Span]]]:
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    output = tokenizer(texts, return_offsets_mapping=True, **options)
    results = list(zip(output["input_ids"], output["offset_mapping"], strict=True))
    special = _special_pattern(tokenizer)
    for index, messages in enumerate(conversations):
        if any(special.search(message["content"]) for message in messages):
            results[index] = _tokenise_guarded(texts[index], messages, tokenizer)
    return results


def _tokenise_guarded(text: str, messages: Messages, tokenizer: Any) -> tuple[list[int], list[Span]]:
    """Tokenise with special tokens only where the template wrote them.

    Special tokens cut a text into pieces that are tokenised by themselves anyway; cutting at the template's own ones
    and reading the pieces as plain text differs from the usual reading only where a message spells out a token (and,
    with tokenizers that put a space before the very first word, at the start of a piece).
    """
    spelled = _spelled_by_messages(text, messages, tokenizer)
    ids: list[int] = []
    offsets: list[Span] = []
    place = 0
    cuts = [match for match in _special_pattern(tokenizer).finditer(text) if match.start() not in spelled]
    for start, stop, token in [*((cut.start(), cut.end(), cut[0]) for cut in cuts), (len(text), len(text), "")]:
        if place < start:
            piece = tokenizer(
                text[place:start], add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
            )
            ids += piece["input_ids"]
            offsets += [(place + left, place + right) for left, right in piece["offset_mapping"]]
        if token:
            ids.append(tokenizer.convert_tokens_to_ids(token))
            offsets.append((start, stop))
        place = stop
    return ids, offsets


def _spelled_by_messages(text: str, messages: Messages, tokenizer: Any) -> set[int]:
    """Places in `text` of special tokens that stand inside a message: those that vanish when the message does not
    contain them."""
    special = _special_pattern(tokenizer)
    marker = _unused_character(text)
    neutral = [
        {**message, "content": special.sub(lambda found: marker * len(found[0]), message["content"])}
        for message in messages
    ]
    other = _render(neutral, tokenizer)
    if len(other) != len(text):
        raise DataError("spells out special tokens that the chat template acts upon; write them differently")
    return {match.start() for match in special.finditer(text) if other[match.start()] == marker}


def _special_pattern(tokenizer: Any) -> re.Pattern[str]:
    tokens = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return _pattern(tuple(sorted({*tokens, *tokenizer.all_special_tokens}, key=lambda token: (-len(token), token))))


@lru_cache(maxsize=16)
def _pattern(tokens: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, tokens)) if tokens else r"(?!)")


def _inside(offsets: list[Span], text: str, spans: list[Span]) -> list[bool]:
    """For each token whether its first character that is no space (its first, if all are) lies in one of `spans`."""
    flags, current = [], 0
    for start, stop in offsets:
        piece = text[start:stop]
        start += len(piece) - len(piece.lstrip()) if piece.strip() else 0
        while current < len(spans) and start >= spans[current][1]:
            current += 1
        flags.append(current < len(spans) and start >= spans[current][0])
    return flags
