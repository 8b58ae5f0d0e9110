"""Settings and a tokenizer -> tokenised train and test sets, with notes for the user.

Fine-tuning sets have the columns `input_ids` and `may_noise`, pretraining sets `input_ids` and `document`. Joins what
the other files of this folder do; knows nothing of batches or of noise.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from datasets import Dataset, IterableDataset, concatenate_datasets
from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from unmask.data.packing import ROW_FEATURES, count_tokens, pack_dataset, pack_texts
from unmask.data.sources import Reading, Records, is_local, load_records, local_files
from unmask.data.spec import DatasetSpec, parse_dataset_args
from unmask.data.tokenise import (
    SFT_FEATURES,
    Encoding,
    checked_texts,
    encoded_stream,
    tokenise_conversations,
    tokenise_documents,
    use_labels,
    use_rows,
)
from unmask.errors import ConfigError, DataError


class DataSettings(Protocol):
    """What is needed of the settings of a run (`training.arguments.DataArguments` has it)."""

    @property
    def dataset_args(self) -> str | None: ...
    @property
    def eval_dataset_args(self) -> str | None: ...
    @property
    def text_field(self) -> str: ...
    @property
    def max_length(self) -> int: ...
    @property
    def truncation(self) -> Literal["right", "filter"]: ...
    @property
    def num_proc(self) -> int: ...
    @property
    def streaming(self) -> bool | None: ...
    @property
    def insert_eos(self) -> bool: ...
    @property
    def drop_tail(self) -> bool: ...
    @property
    def load_preprocessed_data(self) -> bool: ...
    @property
    def mask_prompt_loss(self) -> bool: ...
    @property
    def train_turns(self) -> Literal["all", "last"]: ...
    @property
    def skip_bad_rows(self) -> bool: ...


@dataclass(frozen=True)
class Splits:
    """Tokenised sets.

    Attributes:
        train: a `Dataset`, or an `IterableDataset` when streaming.
        test: always a `Dataset`; None: there is no test part.
        notes: lines to be shown to the user.
    """

    train: Dataset | IterableDataset
    test: Dataset | None = None
    notes: list[str] = field(default_factory=list)


def build_sft(data: DataSettings, tokenizer: Any, *, seed: int = 0) -> Splits:
    """Conversations, tokenised, with the tokens that may be noised marked.

    Args:
        data: which data, and how. tokenizer: a fast tokenizer with `chat_template`.
        seed: of the run; the division into train and test does not depend on it, so that runs that differ in their
            seed are tested on the same rows.

    Raises:
        ConfigError: the settings contradict each other. DataError: the data is missing, bad or holds nothing to learn.
    """
    del seed
    if not tokenizer.chat_template and not data.load_preprocessed_data:
        raise ConfigError("the tokenizer has no chat_template, so a conversation cannot be written; set one")
    encoding = Encoding(tokenizer, data.max_length, data.truncation, data.mask_prompt_loss, data.train_turns)

    def tokenised(records: Dataset, label: str) -> tuple[Dataset, list[str]]:
        if "input_ids" in records.column_names:
            return use_labels(records, encoding, label)
        return tokenise_conversations(records, encoding, label, data.num_proc, data.skip_bad_rows)

    with _quiet_unless_seen():
        parts = _gather(data, "conversation", stream_hub=False)
        test, notes = _each(parts.tests, tokenised, "test")
        if parts.stream:
            rows = partial(encoded_stream, parts.stream, encoding)
            return Splits(_iterable(rows, SFT_FEATURES), test, parts.notes + notes)
        train, more = _each(parts.trains, tokenised, "train")
    assert train is not None
    return Splits(train, test, parts.notes + more + notes)


def build_pretrain(data: DataSettings, tokenizer: Any, *, seed: int = 0, stream_hub_by_default: bool = True) -> Splits:
    """Documents, tokenised and packed into rows of `max_length`.

    Args:
        data: which data, and how. tokenizer: a fast tokenizer with `eos_token_id`.
        seed: of the run; nothing here depends on it.
        stream_hub_by_default: read Hub data while training, unless `data.streaming` says otherwise.

    Raises:
        ConfigError: the settings contradict each other. DataError: the data is missing, bad or too short.
    """
    del seed
    if data.insert_eos and tokenizer.eos_token_id is None:
        raise ConfigError("insert_eos is true, but the tokenizer has no end-of-text token. Set insert_eos false")
    eos = tokenizer.eos_token_id if data.insert_eos else None
    packing = {"max_length": data.max_length, "eos_token_id": eos}

    def tokenised(records: Dataset, label: str) -> tuple[Dataset, list[str]]:
        if "input_ids" in records.column_names:
            return use_rows(records, tokenizer, data.max_length, label)
        return tokenise_documents(records, tokenizer, label, data.num_proc, data.skip_bad_rows)

    with _quiet_unless_seen():
        parts = _gather(data, "text", stream_hub=stream_hub_by_default)
        test, notes = _packed(*_each(parts.tests, tokenised, "test"), "test", data.drop_tail, packing)
        if parts.stream:
            rows = partial(_pack_stream, parts.stream, tokenizer, data.drop_tail, packing)
            return Splits(_iterable(rows, ROW_FEATURES), test, parts.notes + notes)
        train, more = _packed(*_each(parts.trains, tokenised, "train"), "train", data.drop_tail, packing)
    assert train is not None
    return Splits(train, test, parts.notes + more + notes)


# Which records


@dataclass
class _Parts:
    trains: list[Dataset] = field(default_factory=list)
    tests: list[Dataset] = field(default_factory=list)
    stream: Callable[[], Iterator[dict[str, Any]]] | None = None
    notes: list[str] = field(default_factory=list)


def _gather(data: DataSettings, want: Any, *, stream_hub: bool) -> _Parts:
    """Open all pieces of `dataset_args`, and of `eval_dataset_args`, whose test part replaces the others'."""
    if not data.dataset_args:
        raise ConfigError("no dataset: give dataset_args, for example --dataset_args data/train.jsonl[test:5%]")
    specs = parse_dataset_args(data.dataset_args)
    evaluated = parse_dataset_args(data.eval_dataset_args) if data.eval_dataset_args else []
    reading = Reading(want, data.text_field, data.skip_bad_rows, data.load_preprocessed_data)
    streaming = _streams(data, specs, stream_hub)
    found = [load_records(spec, reading, streaming=streaming) for spec in specs]
    held_out = [_held_out(spec, reading, streaming) for spec in evaluated]
    parts = _Parts(notes=[note for records in [*found, *held_out] for note in records.notes])
    parts.notes += _same_files(specs, evaluated)
    parts.tests = [records.test for records in (held_out or found) if records.test is not None]
    if streaming:
        starts = [records.train for records in found if not isinstance(records.train, Dataset)]
        parts.stream = partial(_chain, starts)
    else:
        parts.trains = [records.train for records in found if isinstance(records.train, Dataset)]
    return parts


def _chain(starts: list[Callable[[], Iterator[dict[str, Any]]]]) -> Iterator[dict[str, Any]]:
    return itertools.chain.from_iterable(start() for start in starts)


def _held_out(spec: DatasetSpec, reading: Reading, streaming: bool) -> Records:
    """A dataset named for evaluation: its test part, or all of it where it has none.

    A few rows of a Hub dataset are streamed, too, where the run streams.
    """
    few = isinstance(spec.test, int) and not is_local(spec)
    records = load_records(spec, reading, streaming=streaming and few)
    if records.test is not None:
        return records
    assert isinstance(records.train, Dataset)
    return Records(records.train, records.train, records.notes)


def _streams(data: DataSettings, specs: list[DatasetSpec], stream_hub: bool) -> bool:
    if data.load_preprocessed_data:
        if data.streaming and stream_hub:
            raise ConfigError("load_preprocessed_data reads a folder on disk; streaming has no effect there")
        return False
    if data.streaming is not None:
        return data.streaming
    return stream_hub and not all(is_local(spec) for spec in specs)


def _same_files(trained: list[DatasetSpec], evaluated: list[DatasetSpec]) -> list[str]:
    """Notes on files that are both learned from and evaluated on, found by size and sha256."""
    ours = [file for spec in trained for file in local_files(spec)]
    theirs = [file for spec in evaluated for file in local_files(spec)]
    pairs = ((left, right) for left in ours for right in theirs if left.stat().st_size == right.stat().st_size)
    same = next(((left, right) for left, right in pairs if left.suffix != ".lock" and _same(left, right)), None)
    if same is None:
        return []
    return [f"warning: eval file equals train file (same sha256): {same[1]} and {same[0]}"]


def _same(left: Path, right: Path) -> bool:
    return left.samefile(right) or _sha256(left) == _sha256(right)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# What becomes of them


def _each(
    tables: list[Dataset], tokenised: Callable[[Dataset, str], tuple[Dataset, list[str]]], label: str
) -> tuple[Dataset | None, list[str]]:
    """Tokenise every table and join them; None without tables."""
    results = [tokenised(table, label) for table in tables]
    if not results:
        return None, []
    return concatenate_datasets([dataset for dataset, _ in results]), [note for _, notes in results for note in notes]


def _packed(
    tokenised: Dataset | None, notes: list[str], label: str, drop_tail: bool, packing: dict[str, Any]
) -> tuple[Dataset | None, list[str]]:
    if tokenised is None or "document" in tokenised.column_names:
        return tokenised, notes
    documents, tokens = count_tokens(tokenised)
    rows = pack_dataset(tokenised, drop_tail=drop_tail, **packing)
    length = packing["max_length"]
    if not len(rows) and label == "test" and tokens:
        rows = pack_dataset(tokenised, drop_tail=False, **packing)
    if not len(rows):
        raise DataError(
            f"the {label} part holds {tokens:,} tokens in {documents:,} documents: not one row of "
            f"max_length={length:,}. Lower max_length, set drop_tail false, or give more text"
        )
    note = f"{label}: {documents:,} documents, {tokens:,} tokens, packed into {len(rows):,} rows of {length:,}"
    return rows, [*notes, note]


def _pack_stream(
    start: Callable[[], Iterator[dict[str, Any]]], tokenizer: Any, drop_tail: bool, packing: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    return pack_texts(checked_texts(start(), tokenizer), tokenizer, drop_tail=drop_tail, **packing)


def _iterable(rows: Callable[[], Iterator[dict[str, Any]]], features: Any) -> IterableDataset:
    def generate() -> Iterator[dict[str, Any]]:
        yield from rows()

    return IterableDataset.from_generator(generate, features=features)


@contextmanager
def _quiet_unless_seen() -> Iterator[None]:
    """No progress bars where nobody would see them move."""
    hide = is_progress_bar_enabled() and not sys.stderr.isatty()
    if hide:
        disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            enable_progress_bar()
