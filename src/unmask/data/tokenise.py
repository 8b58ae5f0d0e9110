"""Records -> tokens, in parallel, with a count of everything cut, left out or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from datasets import Dataset, Features, List, Value

from unmask.data.chat import Encoded, check_no_mask_token, encode_conversation, encode_conversations
from unmask.data.packing import TOKEN_FEATURES, tokenise_texts
from unmask.data.scratch import Work, columns_in_batches, map_batches
from unmask.errors import DataError

SFT_FEATURES = Features({"input_ids": List(Value("int32")), "may_noise": List(Value("bool"))})
CHECKED = Features({**SFT_FEATURES, "length": Value("int64"), "problem": Value("string")})
_CHECKED_TOKENS = Features({**TOKEN_FEATURES, "problem": Value("string")})


@dataclass(frozen=True)
class Encoding:
    """How a conversation becomes tokens; the fields are those of `DataArguments`."""

    tokenizer: Any
    max_length: int
    truncation: Literal["right", "filter"]
    mask_prompt_loss: bool
    train_turns: Literal["all", "last"]

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `encode_conversation`."""
        return {"mask_prompt_loss": self.mask_prompt_loss, "train_turns": self.train_turns}

    def cut(self, encoded: Encoded) -> tuple[list[int], list[bool]]:
        """The first `max_length` tokens."""
        return encoded.input_ids[: self.max_length], encoded.may_noise[: self.max_length]


# Conversations


def tokenise_conversations(records: Dataset, encoding: Encoding, label: str, work: Work) -> tuple[Dataset, list[str]]:
    """Columns `input_ids` and `may_noise` of a table with `messages` and `where`, and notes.

    Raises:
        DataError: a conversation cannot be encoded (unless skipped), or no row has anything to learn.
    """

    def change(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded, problems = encode_records(batch["messages"], batch["where"], encoding)
        return encoded_columns(encoded, problems, encoding)

    table = map_batches(records, change, CHECKED, work)
    table, notes = without_problems(table, label, work.skip_bad_rows)
    kept, more = trainable(table, encoding, label)
    return kept, notes + more


def encode_records(conversations: list[Any], places: list[str], encoding: Encoding) -> tuple[list[Encoded], list[str]]:
    """Conversations as tokens, and for each what is wrong with it; empty: nothing."""
    try:
        return encode_conversations(conversations, encoding.tokenizer, **encoding.options()), [""] * len(places)
    except DataError:
        encoded, problems = [], []
        for messages, where in zip(conversations, places, strict=True):
            try:
                encoded.append(encode_conversation(messages, encoding.tokenizer, **encoding.options()))
                problems.append("")
            except DataError as problem:
                encoded.append(Encoded([], []))
                problems.append(f"{where} {problem}")
        return encoded, problems


def encoded_columns(encoded: list[Encoded], problems: list[str], encoding: Encoding) -> dict[str, list[Any]]:
    """The columns of `CHECKED`."""
    cut = [encoding.cut(one) for one in encoded]
    return {
        "input_ids": [ids for ids, _ in cut],
        "may_noise": [flags for _, flags in cut],
        "length": [len(one.input_ids) for one in encoded],
        "problem": problems,
    }


def without_problems(table: Dataset, label: str, skip: bool) -> tuple[Dataset, list[str]]:
    """The rows whose column `problem` is empty, and a note on the others.

    Raises:
        DataError: there are others, and they are not to be skipped.
    """
    bad: list[tuple[int, str]] = []
    start = 0
    for column in columns_in_batches(table, "problem"):
        bad += [(start + index, problem) for index, problem in enumerate(column.to_pylist()) if problem]
        start += len(column)
    if not bad:
        return table, []
    if not skip:
        alike = f" ({len(bad):,} such rows)" if len(bad) > 1 else ""
        raise DataError(f"{bad[0][1]}{alike}")
    more = "; ..." if len(bad) > 3 else ""
    listed = "; ".join(problem for _, problem in bad[:3])
    note = f"{label}: {len(bad):,} of {len(table):,} rows skipped: {listed}{more}"
    return table.select(np.delete(np.arange(len(table)), [index for index, _ in bad])), [note]


def trainable(table: Dataset, encoding: Encoding, label: str) -> tuple[Dataset, list[str]]:
    """The rows with something left to learn, and notes on what was cut or left out."""
    lengths = np.array(table["length"][:], np.int64)
    learns = np.concatenate([_any_per_row(flags) for flags in columns_in_batches(table, "may_noise")] or [np.zeros(0)])
    too_long = lengths > encoding.max_length
    keep = learns.astype(bool) & (~too_long if encoding.truncation == "filter" else True)
    notes = _length_notes(lengths, too_long, encoding, label)
    prompt_only = int((~keep & ~(too_long & (encoding.truncation == "filter"))).sum())
    if not keep.any():
        raise _nothing_to_learn(lengths, too_long, encoding, label)
    if prompt_only:
        notes.append(
            f"{label}: {prompt_only:,} of {len(lengths):,} conversations left out: no token to learn within "
            f"max_length={encoding.max_length:,}"
        )
    columns = list(SFT_FEATURES)
    return (table if keep.all() else table.select(np.flatnonzero(keep))).select_columns(columns), notes


def _any_per_row(flags: Any) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(flags.flatten().to_numpy(zero_copy_only=False))])
    offsets = flags.offsets.to_numpy() - flags.offsets[0].as_py()
    return sums[offsets[1:]] > sums[offsets[:-1]]


def _length_notes(lengths: np.ndarray, too_long: np.ndarray, encoding: Encoding, label: str) -> list[str]:
    count = int(too_long.sum())
    if not count:
        return []
    fate = "are left out (truncation filter)" if encoding.truncation == "filter" else "are cut at the right"
    note = f"{label}: {count:,} of {len(lengths):,} records exceed max_length={encoding.max_length} and {fate}"
    if count * 2 > len(lengths):
        note = f"warning: {note}; median length {int(np.median(lengths))}. Raise max_length"
    return [note]


def _nothing_to_learn(lengths: np.ndarray, too_long: np.ndarray, encoding: Encoding, label: str) -> DataError:
    if too_long.any():
        median = int(np.median(lengths))
        return DataError(
            f"the {label} part has no trainable token: {int(too_long.sum()):,} of {len(lengths):,} records exceed "
            f"max_length={encoding.max_length} and their prompt fills max_length (median length {median}). "
            "Raise max_length"
        )
    return DataError(f"the {label} part has no trainable token: no row of {len(lengths):,} has an answer to learn from")


# Documents


def tokenise_documents(records: Dataset, tokenizer: Any, label: str, work: Work) -> tuple[Dataset, list[str]]:
    """Column `input_ids` of a table with `text` and `where`, one row per document, and notes.

    Raises:
        DataError: a text contains the mask token, unless such rows are skipped.
    """

    def change(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts, problems = batch["text"], _mask_problems(batch, tokenizer)
        if any(problems):
            texts = ["" if problem else text for text, problem in zip(texts, problems, strict=True)]
        return {"input_ids": tokenise_texts(texts, tokenizer), "problem": problems}

    table, notes = without_problems(map_batches(records, change, _CHECKED_TOKENS, work), label, work.skip_bad_rows)
    return table.select_columns(list(TOKEN_FEATURES)), notes


def _mask_problems(batch: dict[str, list[Any]], tokenizer: Any) -> list[str]:
    try:
        check_no_mask_token(batch["text"], tokenizer)
    except DataError:
        pairs = zip(batch["text"], batch["where"], strict=True)
        return [mask_problem(text, where, tokenizer) for text, where in pairs]
    return [""] * len(batch["text"])


def mask_problem(text: str, where: str, tokenizer: Any) -> str:
    """What is wrong with a text that contains the mask token; empty: it does not."""
    try:
        check_no_mask_token([text], tokenizer)
    except DataError as problem:
        return f"{where} {problem}"
    return ""
