"""Rows that were tokenised elsewhere: read, checked, and brought into the columns of our own.

What may be noised is said by `may_noise`, else by `labels` (-100: not), else by `prompt_len` (not before it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from unmask.data.chat import Encoded
from unmask.data.packing import ROW_FEATURES
from unmask.data.rows import BadRow, Row, json_type
from unmask.data.scratch import Work, columns_in_batches, map_batches
from unmask.data.tokenise import CHECKED, SFT_FEATURES, Encoding, encoded_columns, trainable, without_problems
from unmask.errors import DataError

IGNORED_LABEL = -100
_LARGEST_ID = 2**31 - 1
TOKEN_COLUMNS = {
    "input_ids": List(Value("int32")),
    "may_noise": List(Value("bool")),
    "labels": List(Value("int32")),
    "prompt_len": Value("int64"),
    "document": List(Value("int32")),
}
_CHECKED_ROWS = Features({**ROW_FEATURES, "problem": Value("string")})


def token_reader() -> Callable[[Row], dict[str, Any]]:
    """A function that reads rows of one dataset: `input_ids`, what stands beside it of `TOKEN_COLUMNS`, and `where`.

    It raises `BadRow` for a field of the wrong type or length, and for a row that lacks a column of the first one.
    """
    columns: set[str] = set()

    def read(row: Row) -> dict[str, Any]:
        present = {name for name in TOKEN_COLUMNS if row.fields.get(name) is not None}
        missing = sorted((columns or {"input_ids"}) - present)
        if missing:
            raise BadRow(row.where, f'no "{missing[0]}" key (found: {", ".join(list(row.fields)[:8])})', "shape")
        record = {name: row.fields[name] for name in present} | {"where": row.where}
        if problem := _type_problem(record):
            raise BadRow(row.where, problem, "type")
        columns.update(present)
        return record

    return read


def _type_problem(record: dict[str, Any]) -> str:
    """What is wrong with the types and lengths of a row's columns; empty: nothing."""
    ids = record["input_ids"]
    for name, value in record.items():
        if name == "where":
            continue
        if name == "prompt_len":
            if type(value) is not int or value < 0:
                return f'"prompt_len" must be a whole number from 0, got {json_type(value)}'
        elif not isinstance(value, list):
            return f'"{name}" must be an array of whole numbers, got {json_type(value)}'
        elif wrong := [each for each in value if not _fits(name, each)]:
            return f'"{name}" must hold whole numbers only, got {json_type(wrong[0])}'
        elif len(value) != len(ids):
            return f"has {len(ids)} input_ids but {len(value)} {name}"
    return "" if ids else '"input_ids" is empty'


def _fits(name: str, value: Any) -> bool:
    if name == "may_noise":
        return value is True or value is False or (type(value) is int and value in (0, 1))
    return type(value) is int and -_LARGEST_ID <= value <= _LARGEST_ID


def use_labels(rows: Dataset, encoding: Encoding, label: str, place: str, work: Work) -> tuple[Dataset, list[str]]:
    """Columns `input_ids` and `may_noise` of tokenised rows, and notes.

    Raises:
        DataError: nothing says what may be noised, a label is not its own token, an id is the mask's or none of the
            tokenizer's, a column has another type.
    """
    names = set(rows.column_names)
    if encoding.mask_prompt_loss and not names & {"may_noise", "labels", "prompt_len"}:
        found = ", ".join(name for name in rows.column_names if name not in ("where", "source_row"))
        raise DataError(
            f"the tokenised rows of the {label} part have no labels and no prompt_len (found: {found}), so the answer "
            "is unknown. To learn all: --mask_prompt_loss false"
        )

    if encoding.mask_prompt_loss and _need_no_change(rows, SFT_FEATURES, encoding.tokenizer, encoding.max_length):
        return rows.select_columns(list(SFT_FEATURES)), [_as_they_are(rows, label)]

    def change(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded, problems = [], []
        for record in _records(batch, place):
            one, problem = encode_tokens(record, encoding)
            encoded.append(one)
            problems.append(problem)
        return encoded_columns(encoded, problems, encoding)

    table, skipped = without_problems(map_batches(rows, change, CHECKED, work), label, work.skip_bad_rows)
    kept, notes = trainable(table, encoding, label)
    return kept, [*skipped, _as_they_are(rows, label), *notes]


def use_rows(
    rows: Dataset, tokenizer: Any, max_length: int, label: str, place: str, work: Work
) -> tuple[Dataset, list[str]]:
    """Columns `input_ids` and `document` of pretraining rows that were packed elsewhere, and notes.

    Raises:
        DataError: a row is longer than `max_length`, an id is the mask's or none of the tokenizer's, a column has
            another type.
    """

    if _need_no_change(rows, ROW_FEATURES, tokenizer, max_length):
        return rows.select_columns(list(ROW_FEATURES)), [_as_they_are(rows, label)]

    def change(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        records = list(_records(batch, place))
        problems = [row_problem(record, tokenizer, max_length) for record in records]
        kept = [{} if problem else record for record, problem in zip(records, problems, strict=True)]
        ids = [record.get("input_ids", []) for record in kept]
        document = [record.get("document", [0] * len(some)) for record, some in zip(kept, ids, strict=True)]
        return {"input_ids": ids, "document": document, "problem": problems}

    checked = map_batches(rows, change, _CHECKED_ROWS, work)
    table, skipped = without_problems(checked, label, work.skip_bad_rows)
    return table.select_columns(list(ROW_FEATURES)), [*skipped, _as_they_are(rows, label)]


def _need_no_change(rows: Dataset, features: Features, tokenizer: Any, max_length: int) -> bool:
    """Whether rows have our own columns and nothing of them is to be cut, left out or refused.

    So that a large prepared dataset is neither unpacked nor written a second time.
    """
    if any(rows.features.get(name) != kind for name, kind in features.items()):
        return False
    other = next(name for name in features if name != "input_ids")
    pairs = zip(columns_in_batches(rows, "input_ids"), columns_in_batches(rows, other), strict=True)
    return all(_fits_as_it_is(ids, beside, tokenizer, max_length) for ids, beside in pairs)


def _fits_as_it_is(ids: Any, beside: Any, tokenizer: Any, max_length: int) -> bool:
    lengths, others = (np.diff(column.offsets.to_numpy()) for column in (ids, beside))
    flat, flags = (column.flatten().to_numpy(zero_copy_only=False) for column in (ids, beside))
    if ids.null_count or beside.null_count or not (lengths == others).all() or not lengths.all():
        return False
    learned = flags.dtype != bool or np.logical_or.reduceat(flags, np.cumsum(lengths) - lengths).all()
    known = flat.min() >= 0 and flat.max() < len(tokenizer) and not (flat == tokenizer.mask_token_id).any()
    return bool(lengths.max() <= max_length and learned and known)


def _records(batch: dict[str, list[Any]], place: str) -> Any:
    for index, number in enumerate(batch.get("source_row", [""] * len(batch["input_ids"]))):
        record = {name: batch[name][index] for name in (*TOKEN_COLUMNS, "where") if name in batch}
        yield {"where": f"{place} row {number}", **record}


def encode_tokens(record: dict[str, Any], encoding: Encoding) -> tuple[Encoded, str]:
    """The ids of a record and which may be noised; or what is wrong with it."""
    problem = _problem(record, encoding.tokenizer) or _label_problem(record)
    if problem:
        return Encoded([], []), f"{record['where']} {problem}"
    ids = record["input_ids"]
    if not encoding.mask_prompt_loss:
        return Encoded(ids, [True] * len(ids)), ""
    if "may_noise" in record:
        return Encoded(ids, [bool(flag) for flag in record["may_noise"]]), ""
    if "labels" in record:
        return Encoded(ids, [label != IGNORED_LABEL for label in record["labels"]]), ""
    return Encoded(ids, [place >= record["prompt_len"] for place in range(len(ids))]), ""


def row_problem(record: dict[str, Any], tokenizer: Any, max_length: int) -> str:
    """What is wrong with a pretraining row; empty: nothing."""
    problem = _problem(record, tokenizer)
    if not problem and len(record["input_ids"]) > max_length:
        problem = f"has {len(record['input_ids']):,} tokens; max_length is {max_length:,}"
    return f"{record['where']} {problem}" if problem else ""


def _problem(record: dict[str, Any], tokenizer: Any) -> str:
    missing = next((name for name, value in record.items() if value is None), None)
    problem = f'"{missing}" is null' if missing else _type_problem(record)
    if problem:
        return problem
    ids, count, mask = np.asarray(record["input_ids"]), len(tokenizer), tokenizer.mask_token_id
    beyond = ids[(ids < 0) | (ids >= count)]
    if len(beyond):
        return f"holds the id {beyond[0]}, but the tokenizer has {count:,}: it was made with another tokenizer"
    if mask is not None and (ids == mask).any():
        return f"contains the mask token (id {mask}); the model would see it as noise"
    return ""


def _label_problem(record: dict[str, Any]) -> str:
    if "labels" not in record:
        return ""
    ids, labels = np.asarray(record["input_ids"]), np.asarray(record["labels"])
    wrong = np.flatnonzero((labels != ids) & (labels != IGNORED_LABEL))
    if not len(wrong):
        return ""
    both = f"labels[{wrong[0]}] is {labels[wrong[0]]}, but input_ids[{wrong[0]}] is {ids[wrong[0]]}"
    return f"{both}; a label must be its own token, or {IGNORED_LABEL}"


def _as_they_are(rows: Dataset, label: str) -> str:
    return f"{label}: {len(rows):,} rows hold input_ids and are used as they are"
