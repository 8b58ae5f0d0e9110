"""Settings and a tokenizer -> tokenised train and test sets, with notes for the user.

Fine-tuning sets have the columns `input_ids` and `may_noise`, pretraining sets `input_ids` and `document`. Joins what
the other files of this folder do; knows nothing of batches or of noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset, concatenate_datasets

from unmask.data.manifest import check_prepared
from unmask.data.mixture import Mixture, interleaved
from unmask.data.packing import (
    ROW_FEATURES,
    count_tokens,
    document_places,
    pack_dataset,
    pack_texts,
    whole_dataset,
    whole_texts,
)
from unmask.data.scratch import Work, quiet_unless_seen
from unmask.data.settings import DataSettings, Mode
from unmask.data.sources import Opened, Reading, Records, read
from unmask.data.sources.named import Sources, few, open_sources
from unmask.data.streams import Start, conversation_stream, document_stream
from unmask.data.token_rows import use_labels, use_rows
from unmask.data.tokenise import SFT_FEATURES, Encoding, tokenise_conversations, tokenise_documents
from unmask.errors import ConfigError, DataError

Tokenise = Callable[[Dataset, str, str, Work], tuple[Dataset, list[str]]]


@dataclass(frozen=True)
class Splits:
    """Tokenised sets.

    Attributes:
        train: a `Dataset`, or an `IterableDataset` when streaming.
        test: always a `Dataset`; None: there is no test part.
        notes: lines to be shown to the user.
        mixture: how the rows of `train` are drawn; None: each once per epoch.
        documents: split -> what tells where its documents begin, int64 `[documents, 2]` rows and columns, some at a
            time; for a corpus that was packed here.
    """

    train: Dataset | IterableDataset
    test: Dataset | None = None
    notes: list[str] = field(default_factory=list)
    mixture: Mixture | None = None
    documents: dict[str, Callable[[], Iterator[np.ndarray]]] = field(default_factory=dict)


def build_sft(data: DataSettings, tokenizer: Any) -> Splits:
    """Conversations, tokenised, with the tokens that may be noised marked.

    Args:
        data: which data, and how. tokenizer: a fast tokenizer with `chat_template`.

    Raises:
        ConfigError: the settings contradict each other. DataError: the data is missing, bad or holds nothing to learn.
    """
    return tokenised(open_sources(data, "sft"), data, tokenizer, "sft")


def build_pretrain(data: DataSettings, tokenizer: Any, *, stream_hub_by_default: bool = True) -> Splits:
    """Documents, tokenised and packed into rows of `max_length`, or whole where the plan of the run packs them.

    Args:
        data: which data, and how. tokenizer: a fast tokenizer with `eos_token_id`.
        stream_hub_by_default: read Hub data while training, unless `data.streaming` says otherwise.

    Raises:
        ConfigError: the settings contradict each other. DataError: the data is missing, bad or too short.
    """
    sources = open_sources(data, "pretrain", stream_hub=stream_hub_by_default)
    return tokenised(sources, data, tokenizer, "pretrain")


def reading_of(data: DataSettings, mode: Mode) -> Reading:
    """How the rows of a run are read."""
    want = "conversation" if mode == "sft" else "text"
    return Reading(want, data.text_field, data.skip_bad_rows, data.load_preprocessed_data)


def tokenised(
    sources: Sources, data: DataSettings, tokenizer: Any, mode: Mode, *, shards: Path | None = None, overlap: int = 0
) -> Splits:
    """The rows of opened datasets as tokens.

    Args:
        sources: from `open_sources`. data: how. tokenizer: a fast one. mode: what for.
        shards: keep what is done in this folder, so that interrupted work goes on.
        overlap: tokens that a row of a packed corpus repeats of the one before it.

    Raises:
        ConfigError: the tokenizer lacks what is needed. DataError: the data is bad or holds nothing to learn.
    """
    check_prepared(sources, tokenizer)
    make = _Conversations(data, tokenizer) if mode == "sft" else _Documents(data, tokenizer, overlap)
    reading = reading_of(data, mode)
    work = Work(data.num_proc, data.skip_bad_rows, shards)
    with quiet_unless_seen():
        found = [read(one, reading, streaming=sources.streaming) for one in sources.trained]
        tested = [
            _all_rows(read(one, reading, streaming=sources.streaming and few(one.spec))) for one in sources.evaluated
        ]
        notes = sources.notes + [note for records in (*found, *tested) for note in records.notes]
        weights = _weights(sources.trained)
        tests = [(one.spec.path, records.test) for one, records in _beside(sources, found, tested)]
        test, told, _ = make.tables([(place, table) for place, table in tests if table is not None], "test", work, None)
        if sources.streaming:
            starts = [partial(make.stream, records.train) for records in found]
            return Splits(_iterable(_joined(starts, weights), make.features), test, notes + told)
        trains = [(one.spec.path, records.train) for one, records in zip(sources.trained, found, strict=True)]
        train, more, mixture = make.tables(trains, "train", work, weights)
    assert train is not None
    return Splits(train, test, notes + more + told, mixture, make.documents)


def _beside(sources: Sources, found: list[Records], tested: list[Records]) -> Iterator[tuple[Opened, Records]]:
    return zip(sources.evaluated or sources.trained, tested or found, strict=True)


def _all_rows(records: Records) -> Records:
    """A dataset named for evaluation: its test part, or all of it where it has none."""
    if records.test is not None:
        return records
    assert isinstance(records.train, Dataset)
    return Records(records.train, records.train, records.notes)


def _weights(trained: list[Opened]) -> list[float] | None:
    given = [one.spec.weight for one in trained]
    if len(given) < 2 or all(weight is None for weight in given):
        return None
    return [1.0 if weight is None else weight for weight in given]


def _joined(starts: list[Start], weights: list[float] | None) -> Start:
    if weights:
        return partial(interleaved, starts, weights)
    return lambda: itertools.chain.from_iterable(start() for start in starts)


class _Conversations:
    """What fine-tuning makes of records."""

    features = SFT_FEATURES

    def __init__(self, data: DataSettings, tokenizer: Any) -> None:
        if not tokenizer.chat_template and not data.load_preprocessed_data:
            raise ConfigError("the tokenizer has no chat_template, so a conversation cannot be written; set one")
        self.skip = data.skip_bad_rows
        self.documents: dict[str, Callable[[], Iterator[np.ndarray]]] = {}
        self.encoding = Encoding(tokenizer, data.max_length, data.truncation, data.mask_prompt_loss, data.train_turns)

    def stream(self, start: Any) -> Iterator[dict[str, Any]]:
        return conversation_stream(start, self.encoding, self.skip)

    def tables(
        self, tables: list[tuple[str, Any]], label: str, work: Work, weights: list[float] | None
    ) -> tuple[Dataset | None, list[str], Mixture | None]:
        return _mixed(*_each(tables, self._tokenised, label, work), weights)

    def _tokenised(self, records: Dataset, label: str, place: str, work: Work) -> tuple[Dataset, list[str]]:
        if "input_ids" in records.column_names:
            return use_labels(records, self.encoding, label, place, replace(work, shards=None))
        return tokenise_conversations(records, self.encoding, label, work)


class _Documents:
    """What pretraining makes of records."""

    features = ROW_FEATURES

    def __init__(self, data: DataSettings, tokenizer: Any, overlap: int) -> None:
        if data.insert_eos and tokenizer.eos_token_id is None:
            raise ConfigError("insert_eos is true, but the tokenizer has no end-of-text token. Set insert_eos false")
        self.skip, self.tokenizer = data.skip_bad_rows, tokenizer
        eos = tokenizer.eos_token_id if data.insert_eos else None
        self.cutting = {"max_length": data.max_length, "eos_token_id": eos}
        self.packing = {**self.cutting, "drop_tail": data.drop_tail, "overlap": overlap}
        self.whole, self.overlap = data.packing, overlap
        self.documents: dict[str, Callable[[], Iterator[np.ndarray]]] = {}

    def stream(self, start: Any) -> Iterator[dict[str, Any]]:
        rows_of = partial(whole_texts, **self.cutting) if self.whole else partial(pack_texts, **self.packing)
        return document_stream(start, self.tokenizer, self.skip, rows_of, self.cutting["max_length"])

    def tables(
        self, tables: list[tuple[str, Any]], label: str, work: Work, weights: list[float] | None
    ) -> tuple[Dataset | None, list[str], Mixture | None]:
        """Datasets are one stream of documents, but for those that are mixed, or come packed."""
        sets, notes = _each(tables, self._tokenised, label, work)
        if sets and not weights and not any("document" in one.column_names for one in sets):
            sets = [concatenate_datasets(sets)]
            options = {**self.cutting, "overlap": self.overlap, "whole": self.whole}
            self.documents[label] = partial(document_places, sets[0], **options)
        packed = [self._packed(one, label) for one in sets]
        return _mixed([rows for rows, _ in packed], [*notes, *(note for _, some in packed for note in some)], weights)

    def _tokenised(self, records: Dataset, label: str, place: str, work: Work) -> tuple[Dataset, list[str]]:
        if "input_ids" in records.column_names:
            length = self.cutting["max_length"]
            return use_rows(records, self.tokenizer, length, label, place, replace(work, shards=None))
        return tokenise_documents(records, self.tokenizer, label, work)

    def _packed(self, documents: Dataset, label: str) -> tuple[Dataset, list[str]]:
        if "document" in documents.column_names:
            return documents, []
        length, (count, tokens) = self.cutting["max_length"], count_tokens(documents)
        rows = whole_dataset(documents, **self.cutting) if self.whole else pack_dataset(documents, **self.packing)
        if not len(rows) and label == "test" and tokens:
            rows = pack_dataset(documents, **{**self.packing, "drop_tail": False})
        if not len(rows):
            raise DataError(
                f"the {label} part holds {tokens:,} tokens in {count:,} documents: not one row of "
                f"max_length={length:,}. Lower max_length, set drop_tail false, or give more text"
            )
        became = f"packed into {len(rows):,} rows of {length:,}"
        if self.whole:
            became = f"in {len(rows):,} pieces of at most {length:,}"
        return rows, [f"{label}: {count:,} documents, {tokens:,} tokens, {became}"]


def _each(tables: list[tuple[str, Any]], change: Tokenise, label: str, work: Work) -> tuple[list[Dataset], list[str]]:
    """Tokenise every table."""
    sets, notes = [], []
    for index, (place, table) in enumerate(tables):
        shards = work.shards and work.shards / f"{label}-{index}"
        one, some = change(table, label, place, replace(work, shards=shards))
        sets.append(one)
        notes += some
    return sets, notes


def _mixed(
    sets: list[Dataset], notes: list[str], weights: list[float] | None
) -> tuple[Dataset | None, list[str], Mixture | None]:
    """One table of all sets (None without any), and how it is to be drawn from."""
    if not sets:
        return None, notes, None
    mixture = Mixture(tuple(map(len, sets)), tuple(weights)) if weights else None
    if mixture:
        drawn = "; ".join(f"{count:,} of {size:,}" for count, size in zip(mixture.counts, mixture.sizes, strict=True))
        notes = [*notes, f"mixture: rows drawn per epoch from each dataset: {drawn}"]
    return concatenate_datasets(sets), notes, mixture


def _iterable(rows: Start, features: Any) -> IterableDataset:
    def generate() -> Iterator[dict[str, Any]]:
        yield from rows()

    return IterableDataset.from_generator(generate, features=features)
