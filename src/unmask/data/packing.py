"""Documents -> rows of exactly `max_length` tokens, each with the index of its document.

The corpus is one stream of tokens, cut every `max_length`; a document longer than what is left of a row goes on in the
next, as that row's document 0. The rows depend on the documents and their order alone: not on how they were batched,
nor on the number of processes that tokenised them. Random shortening of rows is for `collate`.

Or documents stay whole (`whole`): each is a row, cut only where it is longer than one, and those that share a row are
found by the plan of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value

from unmask.data.scratch import TableWriter, columns_in_batches

ROW_FEATURES = Features({"input_ids": List(Value("int32")), "document": List(Value("int32"))})
TOKEN_FEATURES = Features({"input_ids": List(Value("int32"))})
# characters that are tokenised in one call
_TOGETHER = 1 << 19


class Documents(NamedTuple):
    """Some documents, end to end: `ids` int32 [tokens] and `lengths` int64 [documents]."""

    ids: np.ndarray
    lengths: np.ndarray


class Rows(NamedTuple):
    """Some rows of the same length: `input_ids` and `document`, both int32 [rows, length]."""

    input_ids: np.ndarray
    document: np.ndarray


def tokenise_texts(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of each text, with nothing added around it; special tokens written in a text count as such."""
    ids: list[list[int]] = []
    for some in _portions(texts):
        ids += tokenizer(some, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return ids


def _portions(texts: list[str]) -> Iterator[list[str]]:
    """Texts in groups: what a tokenizer knows of a text while it works takes fifty times the room of the text."""
    start = characters = 0
    for end, text in enumerate(texts, 1):
        characters += len(text)
        if characters >= _TOGETHER or end == len(texts):
            yield texts[start:end]
            start, characters = end, 0


def whole_dataset(tokenised: Dataset, *, max_length: int, eos_token_id: int | None) -> Dataset:
    """`cut_documents` over a dataset with the column `input_ids`, as a dataset with `ROW_FEATURES`."""
    writer = TableWriter(ROW_FEATURES)
    for batch in map(_documents, columns_in_batches(tokenised, "input_ids")):
        pieces = cut_documents(batch, max_length=max_length, eos_token_id=eos_token_id)
        offsets = pa.array(np.concatenate([[0], np.cumsum(pieces.lengths)]).astype(np.int32))
        columns = (pieces.ids.astype(np.int32), np.zeros(len(pieces.ids), np.int32))
        writer.write_columns([pa.ListArray.from_arrays(offsets, pa.array(column)) for column in columns])
    return writer.finish()


def pack_dataset(
    tokenised: Dataset, *, max_length: int, eos_token_id: int | None, drop_tail: bool, overlap: int = 0
) -> Dataset:
    """`pack_documents` over a dataset with the column `input_ids`, as a dataset with `ROW_FEATURES`."""
    writer = TableWriter(ROW_FEATURES)
    batches = map(_documents, columns_in_batches(tokenised, "input_ids"))
    options = {"max_length": max_length, "eos_token_id": eos_token_id, "drop_tail": drop_tail, "overlap": overlap}
    for rows in pack_documents(batches, **options):
        writer.write_columns([_lists(rows.input_ids), _lists(rows.document)])
    return writer.finish()


def pack_texts(
    texts: Iterable[str],
    tokenizer: Any,
    *,
    max_length: int,
    eos_token_id: int | None,
    drop_tail: bool,
    overlap: int = 0,
) -> Iterator[dict[str, list[int]]]:
    """`pack_documents` over a stream of texts, one row at a time; the same rows as `pack_dataset` gives."""
    options = {"max_length": max_length, "eos_token_id": eos_token_id, "drop_tail": drop_tail, "overlap": overlap}
    for rows in pack_documents(_tokenised(texts, tokenizer), **options):
        for ids, document in zip(rows.input_ids.tolist(), rows.document.tolist(), strict=True):
            yield {"input_ids": ids, "document": document}


def whole_texts(
    texts: Iterable[str], tokenizer: Any, *, max_length: int, eos_token_id: int | None
) -> Iterator[dict[str, list[int]]]:
    """`cut_documents` over a stream of texts, one row at a time; the same rows as `whole_dataset` gives."""
    for batch in _tokenised(texts, tokenizer):
        pieces = cut_documents(batch, max_length=max_length, eos_token_id=eos_token_id)
        for ids in np.split(pieces.ids, np.cumsum(pieces.lengths)[:-1]):
            if len(ids):
                yield {"input_ids": ids.tolist(), "document": [0] * len(ids)}


def _tokenised(texts: Iterable[str], tokenizer: Any) -> Iterator[Documents]:
    stream = iter(texts)
    return (from_lists(tokenise_texts(some, tokenizer)) for some in iter(lambda: list(islice(stream, 100)), []))


def cut_documents(batch: Documents, *, max_length: int, eos_token_id: int | None) -> Documents:
    """Each document by itself, in pieces of at most `max_length`.

    Args:
        batch: documents in order; empty ones leave no trace. max_length: tokens.
        eos_token_id: put behind each document that does not end with it; None: nothing is put there.
    """
    ids, lengths = _with_eos(batch, eos_token_id)
    pieces = -(-lengths // max_length)
    cut = np.full(int(pieces.sum()), max_length, np.int64)
    cut[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * max_length
    return Documents(ids, cut)


def pack_documents(
    batches: Iterable[Documents], *, max_length: int, eos_token_id: int | None, drop_tail: bool, overlap: int = 0
) -> Iterator[Rows]:
    """Cut the stream of all documents into rows.

    Args:
        batches: documents in order; empty ones leave no trace.
        max_length: tokens of a row.
        eos_token_id: put behind each document that does not end with it; None: nothing is put there.
        drop_tail: leave out the last row where it is shorter; otherwise it comes by itself, shorter.
        overlap: tokens with which a row begins that the row before it ends with, below `max_length`.
    """
    step = max_length - overlap
    ids, document = np.zeros(0, np.int32), np.zeros(0, np.int64)
    seen, some = 0, False
    for batch in batches:
        more, lengths = _with_eos(batch, eos_token_id)
        ids = np.concatenate([ids, more])
        document = np.concatenate([document, np.repeat(np.arange(seen, seen + len(lengths)), lengths)])
        seen += len(lengths)
        rows = max((len(ids) - overlap) // step, 0)
        if rows:
            starts = np.arange(rows)[:, None] * step + np.arange(max_length)
            yield _rows(ids[starts], document[starts])
            ids, document = ids[rows * step :], document[rows * step :]
            some = True
    # What is left over begins with what the last row ended with.
    if len(ids) > (overlap if some else 0) and not drop_tail:
        yield _rows(ids[None], document[None])


def document_places(
    tokenised: Dataset, *, max_length: int, eos_token_id: int | None, overlap: int = 0, whole: bool = False
) -> Iterator[np.ndarray]:
    """Where documents begin among the rows that `pack_dataset`, or `whole_dataset`, makes of them.

    Yields:
        int64 `[documents, 2]`, row and column, for some documents at a time; rows that a dropped tail would have been
        in count on.
    """
    step, before = max_length - overlap, 0
    for batch in map(_documents, columns_in_batches(tokenised, "input_ids")):
        _, lengths = _with_eos(batch, eos_token_id)
        sizes = -(-lengths // max_length) if whole else lengths
        starts = before + np.cumsum(sizes) - sizes
        before += int(sizes.sum())
        # of two rows that share a token, the first
        row = starts if whole else np.maximum((starts - overlap) // step, 0)
        yield np.stack([row, np.zeros_like(row) if whole else starts - row * step], axis=1)


def from_lists(documents: list[list[int]]) -> Documents:
    """Documents out of lists of ids."""
    lengths = np.array([len(document) for document in documents], np.int64)
    return Documents(np.array([token for document in documents for token in document], np.int32), lengths)


def count_tokens(tokenised: Dataset) -> tuple[int, int]:
    """Documents that are not empty, and tokens in them."""
    documents, tokens = 0, 0
    for column in columns_in_batches(tokenised, "input_ids"):
        lengths = _documents(column).lengths
        documents += int((lengths > 0).sum())
        tokens += int(lengths.sum())
    return documents, tokens


def _documents(lists: pa.ListArray) -> Documents:
    return Documents(lists.flatten().to_numpy().astype(np.int32), np.diff(lists.offsets.to_numpy()).astype(np.int64))


def _with_eos(batch: Documents, eos_token_id: int | None) -> tuple[np.ndarray, np.ndarray]:
    lengths = batch.lengths[batch.lengths > 0]
    if eos_token_id is None or not len(lengths):
        return batch.ids, lengths
    ends = np.cumsum(lengths)
    missing = batch.ids[ends - 1] != eos_token_id
    return np.insert(batch.ids, ends[missing], eos_token_id), lengths + missing


def _rows(ids: np.ndarray, document: np.ndarray) -> Rows:
    return Rows(ids, (document - document[:, :1]).astype(np.int32))


def _lists(values: np.ndarray) -> pa.Array:
    rows, length = values.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * length), pa.array(values.ravel()))
