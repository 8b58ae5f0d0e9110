"""Tables of records -> tables of tokens, in parallel, with a count of everything cut, left out or refused.

Rows that come tokenised already are checked and passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from datasets import Dataset, Features, List, Value

from unmask.data.chat import Encoded, check_no_mask_token, encode_conversation, encode_conversations
from unmask.data.packing import ROW_FEATURES, TOKEN_FEATURES, tokenise_texts
from unmask.data.scratch import columns_in_batches, map_batches
from unmask.errors import DataError

SFT_FEATURES = Features({"input_ids": List(Value("int32")), "may_noise": List(Value("bool"))})
_IGNORED_LABEL = -100
_CHECKED = Features({**SFT_FEATURES, "length": Value("int64"), "problem": Value("string")})
_CHECKED_TOKENS = Features({**TOKEN_FEATURES, "problem": Value("string")})
_CHECKED_ROWS = Features({**ROW_FEATURES, "problem": Value("string")})


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


def tokenise_conversations(
    records: Dataset, encoding: Encoding, label: str, num_proc: int, skip_bad_rows: bool
) -> tuple[Dataset, list[str]]:
    """Columns `input_ids` and `may_noise` of a table with `messages` and `where`, and notes.

    Raises:
        DataError: a conversation cannot be encoded (unless skipped), or no row has anything to learn.
    """

    def change(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded, problems = _encode(batch["messages"], batch["where"], encoding)
        return _columns(encoded, problems, encoding)

    table = map_batches(records, change, _CHECKED, num_proc)
    table, notes = _without_problems(table, label, skip_bad_rows)
    kept, more = _trainable(table, encoding, label)
    return kept, notes + more


def _encode(conversations: list[Any], places: list[str], encoding: Encoding) -> tuple[list[Encoded], list[str]]:
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


def _columns(encoded: list[Encoded], problems: list[str], encoding: Encoding) -> dict[str, list[Any]]:
    cut = [encoding.cut(one) for one in encoded]
    return {
        "input_ids": [ids for ids, _ in cut],
        "may_noise": [flags for _, flags in cut],
        "length": [len(one.input_ids) for one in encoded],
        "problem": problems,
    }


def _without_problems(table: Dataset, label: str, skip: bool) -> tuple[Dataset, list[str]]:
    problems = table["problem"][:]
    bad = [problem for problem in problems if problem]
    if bad and not skip:
        alike = f" ({len(bad):,} such rows)" if len(bad) > 1 else ""
        raise DataError(f"{bad[0]}{alike}")
    if not bad:
        return table, []
    more = "; ..." if len(bad) > 3 else ""
    note = f"{label}: {len(bad):,} of {len(problems):,} rows skipped: {'; '.join(bad[:3])}{more}"
    return table.select(np.flatnonzero([not problem for problem in problems])), [note]


def _trainable(table: Dataset, encoding: Encoding, label: str) -> tuple[Dataset, list[str]]:
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


def encoded_stream(
    start: Callable[[], Iterator[dict[str, Any]]], encoding: Encoding, size: int = 100
) -> Iterator[dict[str, Any]]:
    """`tokenise_conversations` for a stream; rows without anything to learn are passed over.

    Raises:
        DataError: a conversation cannot be encoded.
    """
    records = start()
    for batch in iter(lambda: list(islice(records, size)), []):
        places = [record["where"] for record in batch]
        encoded, problems = _encode([record["messages"] for record in batch], places, encoding)
        for one, problem in zip(encoded, problems, strict=True):
            if problem:
                raise DataError(problem)
            ids, flags = encoding.cut(one)
            if any(flags) and (encoding.truncation == "right" or len(one.input_ids) <= encoding.max_length):
                yield {"input_ids": ids, "may_noise": flags}


# Documents


def tokenise_documents(
    records: Dataset, tokenizer: Any, label: str, num_proc: int, skip_bad_rows: bool
) -> tuple[Dataset, list[str]]:
    """Column `input_ids` of a table with `text` and `where`, one row per document, and notes.

    Raises:
        DataError: a text contains the mask token, unless such rows are skipped.
    """

    def change(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        problems = [_mask_problem(text, where, tokenizer) for text, where in zip(*_pair(batch), strict=True)]
        texts = ["" if problem else text for text, problem in zip(batch["text"], problems, strict=True)]
        return {"input_ids": tokenise_texts(texts, tokenizer), "problem": problems}

    table, notes = _without_problems(map_batches(records, change, _CHECKED_TOKENS, num_proc), label, skip_bad_rows)
    return table.select_columns(list(TOKEN_FEATURES)), notes


def _pair(batch: dict[str, list[Any]]) -> tuple[list[str], list[str]]:
    return batch["text"], batch["where"]


def _mask_problem(text: str, where: str, tokenizer: Any) -> str:
    try:
        check_no_mask_token([text], tokenizer)
    except DataError as problem:
        return f"{where} {problem}"
    return ""


def checked_texts(records: Iterator[dict[str, Any]], tokenizer: Any) -> Iterator[str]:
    """The texts of a stream of records.

    Raises:
        DataError: one contains the mask token.
    """
    for record in records:
        problem = _mask_problem(record["text"], record["where"], tokenizer)
        if problem:
            raise DataError(problem)
        yield record["text"]


# Rows that come tokenised


def use_labels(rows: Dataset, encoding: Encoding, label: str) -> tuple[Dataset, list[str]]:
    """Columns `input_ids` and `may_noise` of rows that were tokenised elsewhere, and notes.

    What may be noised is said by `may_noise`, else by `labels` (-100: not), else by `prompt_len` (not before it).

    Raises:
        DataError: none of the three is there, a label is not its own token, an id is the mask's or none of the
            tokenizer's.
    """
    names = set(rows.column_names)
    if encoding.mask_prompt_loss and not names & {"may_noise", "labels", "prompt_len"}:
        raise DataError(
            f"the tokenised rows of the {label} part have no labels and no prompt_len (found: "
            f"{', '.join(rows.column_names)}), so the answer is unknown. To learn all: --mask_prompt_loss false"
        )

    def change(batch: dict[str, list[Any]], places: list[int]) -> dict[str, list[Any]]:
        encoded = [_from_labels(batch, index, encoding.mask_prompt_loss) for index in range(len(places))]
        problems = []
        for index, place in enumerate(places):
            labels = batch["labels"][index] if "labels" in batch else []
            ids, where = batch["input_ids"][index], f"{label} row {place}"
            problems.append(_ids_problem(ids, where, encoding.tokenizer) or _label_problem(ids, labels, where))
        return _columns(encoded, problems, encoding)

    table, _ = _without_problems(map_batches(rows, change, _CHECKED, with_indices=True), label, False)
    kept, notes = _trainable(table, encoding, label)
    return kept, [_as_they_are(rows, label), *notes]


def _from_labels(batch: dict[str, list[Any]], index: int, mask_prompt_loss: bool) -> Encoded:
    ids = batch["input_ids"][index]
    if not mask_prompt_loss:
        return Encoded(ids, [True] * len(ids))
    if "may_noise" in batch:
        return Encoded(ids, batch["may_noise"][index])
    if "labels" in batch:
        return Encoded(ids, [target != _IGNORED_LABEL for target in batch["labels"][index]])
    return Encoded(ids, [place >= batch["prompt_len"][index] for place in range(len(ids))])


def _ids_problem(ids: list[int], where: str, tokenizer: Any) -> str:
    count = len(tokenizer)
    beyond = next((token for token in ids if not 0 <= token < count), None)
    if beyond is not None:
        return f"{where} holds the id {beyond}, but the tokenizer has {count:,}: it was made with another tokenizer"
    if tokenizer.mask_token_id is not None and tokenizer.mask_token_id in ids:
        return f"{where} contains the mask token (id {tokenizer.mask_token_id}); the model would see it as noise"
    return ""


def _label_problem(ids: list[int], labels: list[int], where: str) -> str:
    if labels and len(labels) != len(ids):
        return f"{where} has {len(ids)} input_ids but {len(labels)} labels"
    wrong = (at for at, label in enumerate(labels) if label not in (ids[at], _IGNORED_LABEL))
    place = next(wrong, None)
    if place is None:
        return ""
    both = f"labels[{place}] is {labels[place]}, but input_ids[{place}] is {ids[place]}"
    return f"{where} {both}; a label must be its own token, or {_IGNORED_LABEL}"


def use_rows(rows: Dataset, tokenizer: Any, max_length: int, label: str) -> tuple[Dataset, list[str]]:
    """Columns `input_ids` and `document` of pretraining rows that were packed elsewhere, and a note.

    Raises:
        DataError: a row is longer than `max_length`, or an id is the mask's or none of the tokenizer's.
    """

    def change(batch: dict[str, list[Any]], places: list[int]) -> dict[str, list[Any]]:
        rows = batch["input_ids"]
        problems = []
        for place, ids in zip(places, rows, strict=True):
            where = f"{label} row {place}"
            long = f"{where} has {len(ids):,} tokens; max_length is {max_length:,}" if len(ids) > max_length else ""
            problems.append(long or _ids_problem(ids, where, tokenizer))
        document = batch.get("document", [[0] * len(ids) for ids in rows])
        return {"input_ids": rows, "document": document, "problem": problems}

    table, _ = _without_problems(map_batches(rows, change, _CHECKED_ROWS, with_indices=True), label, False)
    return table.select_columns(list(ROW_FEATURES)), [_as_they_are(rows, label)]


def _as_they_are(rows: Dataset, label: str) -> str:
    return f"{label}: {len(rows):,} rows hold input_ids and are used as they are"
