"""Streams of records -> streams of tokenised rows; what was cut, left out or skipped is logged after each pass."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

from unmask.data.token_rows import encode_tokens, row_problem
from unmask.data.tokenise import Encoding, encode_records, mask_problem
from unmask.errors import DataError

Start = Callable[[], Iterator[dict[str, Any]]]
_LOG = logging.getLogger(__name__)
_TOGETHER = 100


def conversation_stream(start: Start, encoding: Encoding, skip_bad_rows: bool) -> Iterator[dict[str, Any]]:
    """`input_ids` and `may_noise` of each record; rows without anything to learn are passed over.

    Raises:
        DataError: a conversation cannot be encoded, or nothing is left to learn.
    """
    seen: Counter[str] = Counter()
    records = start()
    for batch in iter(lambda: list(islice(records, _TOGETHER)), []):
        for one, problem in _encoded(batch, encoding):
            seen["rows"] += 1
            if problem:
                _bad(problem, skip_bad_rows, seen)
                continue
            ids, flags = encoding.cut(one)
            long = len(one.input_ids) > encoding.max_length
            left_out = long and encoding.truncation == "filter"
            seen["long"] += long
            seen["empty"] += not any(flags) and not left_out
            if any(flags) and not left_out:
                seen["used"] += 1
                yield {"input_ids": ids, "may_noise": flags}
    _close(seen, encoding.max_length, "has a token to learn within")


def _encoded(batch: list[dict[str, Any]], encoding: Encoding) -> Iterator[tuple[Any, str]]:
    if "input_ids" in batch[0]:
        return (encode_tokens(record, encoding) for record in batch)
    places = [record["where"] for record in batch]
    return zip(*encode_records([record["messages"] for record in batch], places, encoding), strict=True)


def _bad(problem: str, skip: bool, seen: Counter[str]) -> None:
    if not skip:
        raise DataError(f"{problem}. To leave bad rows out: --skip_bad_rows true")
    seen["bad"] += 1


def _close(seen: Counter[str], max_length: int, wanted: str) -> None:
    """Say what was counted.

    Raises:
        DataError: nothing was left over.
    """
    limit = f"max_length={max_length:,}"
    told = {
        "long": f"exceed {limit}",
        "empty": f"have no token to learn within {limit}",
        "bad": "are bad and were skipped",
    }
    for kind, what in told.items():
        if seen[kind]:
            _LOG.warning("streamed rows: %s of %s %s", f"{seen[kind]:,}", f"{seen['rows']:,}", what)
    if not seen["used"]:
        raise DataError(f"the stream holds {seen['rows']:,} records, but no row {wanted} {limit}")


def document_stream(
    start: Start, tokenizer: Any, skip_bad_rows: bool, rows_of: Callable[..., Iterator[dict[str, Any]]], max_length: int
) -> Iterator[dict[str, Any]]:
    """`input_ids` and `document` of rows of at most `max_length` tokens; records of tokens are used as they are.

    Args:
        start: the records. tokenizer: a fast one. skip_bad_rows: count them and go on.
        rows_of: makes rows of texts and a tokenizer. max_length: of a row, tokens.

    Raises:
        DataError: a text contains the mask token, a row of tokens does not fit, or not one row comes of it.
    """
    seen: Counter[str] = Counter()
    records = start()
    first = next(records, None)
    records = chain([first] if first else [], records)
    if first and "input_ids" in first:
        rows = _fitting(records, tokenizer, skip_bad_rows, max_length, seen)
    else:
        rows = rows_of(_texts(records, tokenizer, skip_bad_rows, seen), tokenizer)
    for row in rows:
        seen["used"] += 1
        yield row
    _close(seen, max_length, "of tokens comes of it; drop_tail needs whole rows of")


def _fitting(
    records: Iterator[dict[str, Any]], tokenizer: Any, skip: bool, max_length: int, seen: Counter[str]
) -> Iterator[dict[str, Any]]:
    for record in records:
        seen["rows"] += 1
        if problem := row_problem(record, tokenizer, max_length):
            _bad(problem, skip, seen)
        else:
            ids = record["input_ids"]
            yield {"input_ids": ids, "document": record.get("document", [0] * len(ids))}


def _texts(records: Iterator[dict[str, Any]], tokenizer: Any, skip: bool, seen: Counter[str]) -> Iterator[str]:
    for record in records:
        seen["rows"] += 1
        if problem := mask_problem(record["text"], record["where"], tokenizer):
            _bad(problem, skip, seen)
        else:
            yield record["text"]
