"""Documents to rows: against a plain loop over tokens, in whatever batches they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data.packing import (
    TOKEN_FEATURES,
    from_lists,
    pack_dataset,
    pack_documents,
    pack_texts,
    whole_dataset,
    whole_texts,
)

EOS = 1
DOCUMENTS = st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=12)


def one_by_one(
    documents: list[list[int]], length: int, eos: int | None, drop_tail: bool, overlap: int = 0
) -> list[tuple[list[int], list[int]]]:
    """Token after token into the current row; a new row begins with the last `overlap` tokens of the one before."""
    rows: list[tuple[list[int], list[int]]] = []
    ids: list[int] = []
    owners: list[int] = []
    for number, document in enumerate(documents):
        if not document:
            continue
        ended = document if eos is None or document[-1] == eos else [*document, eos]
        for token in ended:
            ids.append(token)
            owners.append(number)
            if len(ids) == length:
                rows.append((ids, owners))
                ids, owners = ids[length - overlap :], owners[length - overlap :]
    if len(ids) > (overlap if rows else 0) and not drop_tail:
        rows.append((ids, owners))
    return [(ids, [sorted(set(owners)).index(owner) for owner in owners]) for ids, owners in rows]


@settings(deadline=None)
@given(DOCUMENTS, st.integers(1, 9), st.sampled_from([None, EOS]), st.booleans(), st.integers(1, 5), st.integers(0, 8))
def test_rows_equal_those_filled_token_by_token(
    documents: list[list[int]], length: int, eos: int | None, drop_tail: bool, size: int, overlap: int
) -> None:
    overlap = min(overlap, length - 1)
    batches = (from_lists(documents[start : start + size]) for start in range(0, len(documents), size))
    packed = pack_documents(batches, max_length=length, eos_token_id=eos, drop_tail=drop_tail, overlap=overlap)
    found = [
        (ids, document)
        for rows in packed
        for ids, document in zip(rows.input_ids.tolist(), rows.document.tolist(), strict=True)
    ]
    assert found == one_by_one(documents, length, eos, drop_tail, overlap)


@settings(max_examples=20, deadline=None)
@given(DOCUMENTS.filter(any), st.integers(1, 9), st.booleans())
def test_a_table_gives_the_same_rows(documents: list[list[int]], length: int, drop_tail: bool) -> None:
    table = Dataset.from_dict({"input_ids": documents}, features=TOKEN_FEATURES)
    # A selection reads the table through an index, as the division into train and test does.
    reversed_twice = table.select(range(len(table) - 1, -1, -1)).select(range(len(table) - 1, -1, -1))
    for source in (table, reversed_twice):
        rows = pack_dataset(source, max_length=length, eos_token_id=EOS, drop_tail=drop_tail)
        assert [(row["input_ids"], row["document"]) for row in rows] == one_by_one(documents, length, EOS, drop_tail)


def test_only_the_corpus_has_a_tail() -> None:
    documents = [list(range(10, 17))] * 2500  # more than two batches of the table
    table = Dataset.from_dict({"input_ids": documents}, features=TOKEN_FEATURES)
    rows = pack_dataset(table, max_length=16, eos_token_id=None, drop_tail=True)
    assert len(rows) == 2500 * 7 // 16
    stream = [token for row in rows["input_ids"][:] for token in row]
    assert stream == (list(range(10, 17)) * 2500)[: len(stream)]


@pytest.mark.parametrize("drop_tail", [True, False])
def test_streamed_rows_equal_those_of_a_table(bpe_tokenizer: Any, drop_tail: bool) -> None:
    choice = np.random.RandomState(0)
    texts = ["hello there " * count + "the answer" for count in choice.randint(0, 9, 250)]
    options: Any = {"max_length": 17, "eos_token_id": bpe_tokenizer.eos_token_id, "drop_tail": drop_tail}
    documents = [bpe_tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    streamed = [(row["input_ids"], row["document"]) for row in pack_texts(texts, bpe_tokenizer, **options)]
    assert streamed == one_by_one(documents, 17, bpe_tokenizer.eos_token_id, drop_tail)


def by_themselves(documents: list[list[int]], length: int, eos: int | None) -> list[tuple[list[int], list[int]]]:
    """Every document in pieces."""
    rows = []
    for document in documents:
        ended = document if not document or eos is None or document[-1] == eos else [*document, eos]
        rows += [ended[start : start + length] for start in range(0, len(ended), length)]
    return [(row, [0] * len(row)) for row in rows]


@settings(max_examples=40, deadline=None)
@given(DOCUMENTS.filter(any), st.integers(1, 9), st.sampled_from([None, EOS]))
def test_whole_documents_are_cut_only_where_they_are_too_long(
    documents: list[list[int]], length: int, eos: int | None
) -> None:
    table = Dataset.from_dict({"input_ids": documents}, features=TOKEN_FEATURES)
    rows = whole_dataset(table, max_length=length, eos_token_id=eos)
    assert [(row["input_ids"], row["document"]) for row in rows] == by_themselves(documents, length, eos)


def test_streamed_whole_documents_equal_those_of_a_table(bpe_tokenizer: Any) -> None:
    choice = np.random.RandomState(0)
    texts = ["hello there " * count for count in choice.randint(0, 9, 250)]
    documents = [bpe_tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    eos = bpe_tokenizer.eos_token_id
    streamed = whole_texts(texts, bpe_tokenizer, max_length=7, eos_token_id=eos)
    assert [(row["input_ids"], row["document"]) for row in streamed] == by_themselves(documents, 7, eos)
