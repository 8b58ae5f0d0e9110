"""A `DatasetSpec` -> records for training and records for testing, as Arrow tables or as a stream.

Opens files, globs, folders of files, `save_to_disk` folders and Hub ids, and divides them into train and test, which
never overlap. A dataset that has a split of its own for testing keeps it. From one with a single split, both parts are
taken out of one seeded shuffle (test first, then train; rows stay in the order of the file; the same division in every
run unless the spec names a `seed`). A stream cannot be shuffled: its first rows are the test part, the next ones the
training part. Knows nothing of tokenizers.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError, DatasetsError

from unmask.data.division import divide, limit
from unmask.data.reading import Reading, first_records, records_stream, records_table
from unmask.data.rows import KINDS, BadRow, Row, file_kind, read_rows
from unmask.data.scratch import new_file
from unmask.data.spec import DatasetSpec
from unmask.errors import ConfigError, DataError, did_you_mean

TEST_SPLITS = ("test", "validation", "valid", "val", "dev", "eval")
TABLE_KINDS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_ABOUT = ("readme.txt", "license.txt", "dataset_info.json", "dataset_infos.json")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Part:
    """The rows of one split: an iterable that can be run through again, and the table behind it where there is one."""

    label: str
    rows: Callable[[], Iterator[Row | BadRow]]
    table: Dataset | None = None


@dataclass(frozen=True)
class Records:
    """What a spec holds.

    Tables have the columns `text` or `messages`, and `where`; a table with `input_ids` is passed on as it is.
    A stream of training records is a function that starts it anew.
    """

    train: Dataset | Callable[[], Iterator[dict[str, Any]]]
    test: Dataset | None = None
    notes: list[str] = field(default_factory=list)


def load_records(spec: DatasetSpec, reading: Reading, *, streaming: bool = False) -> Records:
    """The training and testing records of one piece of the dataset text.

    Raises:
        DataError: nothing there, no such split, a bad row (unless they are skipped), no rows.
        ConfigError: an option that this kind of dataset does not have.
    """
    if spec.weight != 1:
        raise ConfigError(f'dataset "{spec}": mixing by weight is not available; leave weight out, or set train:N')
    if reading.preprocessed and not _is_saved(Path(spec.path)):
        raise DataError(
            f'load_preprocessed_data reads a folder made by save_to_disk, but "{spec.path}" is none. '
            "Leave the option out to read other data"
        )
    parts = _open(spec, streaming)
    train = parts.get("train") or next(iter(parts.values()))
    test = next((parts[name] for name in TEST_SPLITS if name in parts and parts[name] is not train), None)
    if streaming:
        return _streamed(spec, reading, train, test)
    return _divided(spec, reading, train) if test is None else _separate(spec, reading, train, test)


def is_local(spec: DatasetSpec) -> bool:
    """Whether the spec names something on this machine rather than on the Hub."""
    return os.path.exists(spec.path) or bool(_files(spec.path)) or not _HUB_ID.fullmatch(spec.path)


def local_files(spec: DatasetSpec) -> list[Path]:
    """The files that a local spec reads; empty for the Hub."""
    path = Path(spec.path)
    return sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else _files(spec.path)


# Opening


def _open(spec: DatasetSpec, streaming: bool) -> dict[str, Part]:
    """Split name -> rows; a dataset without named splits has one, "train"."""
    path = Path(spec.path)
    if _is_saved(path):
        parts = _saved_parts(spec)
    elif path.exists() or (files := _files(spec.path)):
        parts = _file_parts(spec, _folder_files(path) if path.is_dir() else files if not path.exists() else [path])
    else:
        return _hub_parts(spec, streaming)
    if spec.name:
        raise ConfigError(f'dataset "{spec}": name is for Hub datasets; {spec.path} is on this machine')
    return _chosen(spec, parts)


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def _files(pattern: str) -> list[Path]:
    if os.path.isfile(pattern):
        return [Path(pattern)]
    return sorted(Path(found) for found in glob.glob(pattern, recursive=True) if os.path.isfile(found))


def _folder_files(folder: Path) -> list[Path]:
    """The data files in a folder, or else in the folders below it; what describes the data is none of them."""
    found = _data_files(folder.iterdir()) or _data_files(folder.rglob("*"))
    kinds = Counter(map(file_kind, found))
    if not kinds:
        raise DataError(f"{folder} holds no data: expected files {_readable()}, or a folder made by save_to_disk")
    if len(kinds) > 1:
        mixed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        raise DataError(f"{folder} mixes kinds of files ({mixed}). Name one, for example {folder}/*{min(kinds)}")
    return found


def _data_files(paths: Iterable[Path]) -> list[Path]:
    readable = (path for path in paths if path.is_file() and file_kind(path) in (*KINDS, *TABLE_KINDS))
    return sorted(path for path in readable if path.name.lower() not in _ABOUT)


def _readable() -> str:
    return ", ".join((*KINDS, *TABLE_KINDS))


def _file_parts(spec: DatasetSpec, files: list[Path]) -> dict[str, Part]:
    """Files named after splits (train.jsonl, test-00.jsonl) are these splits; any others are one split together."""
    unknown = [file for file in files if file_kind(file) not in (*KINDS, *TABLE_KINDS)]
    if unknown:
        raise DataError(f"{unknown[0]} is no file that can be read; allowed: {_readable()}, and .gz of the first four")
    names = [_split_name(file) for file in files]
    if len(files) == 1 or "train" not in names or None in names:
        return {"train": _file_part(files, spec.path)}
    grouped = {name: [file for file, of in zip(files, names, strict=True) if of == name] for name in names}
    return {name: _file_part(members, spec.path) for name, members in grouped.items() if name}


def _split_name(file: Path) -> str | None:
    found = re.match(rf"({'|'.join(('train', *TEST_SPLITS))})(?![a-z])", file.name.lower())
    return found[1] if found else None


def _file_part(files: list[Path], label: str) -> Part:
    kind = TABLE_KINDS.get(file_kind(files[0]))
    if kind:
        options: dict[str, Any] = {"sep": "\t"} if file_kind(files[0]) == ".tsv" else {}
        names = [str(file) for file in files]
        return _table_part(_loaded(lambda: _tables(kind, names, options), label), label)
    return Part(label, lambda: itertools.chain.from_iterable(map(read_rows, files)))


def _tables(kind: str, names: list[str], options: dict[str, Any]) -> Dataset:
    # Its own cache would trust an older copy; the temporary folder goes with the process.
    return load_dataset(kind, data_files=names, split="train", cache_dir=str(new_file().parent), **options)


def _table_part(table: Dataset, label: str, index: np.ndarray | None = None) -> Part:
    def rows() -> Iterator[Row | BadRow]:
        chosen = table if index is None else table.select(index)
        places = itertools.count() if index is None else iter(index)
        for batch in chosen.iter(batch_size=1000):
            for values in zip(*dict(batch).values(), strict=True):
                yield Row(f"{label} row {next(places)}", dict(zip(batch, values, strict=True)))

    return Part(label, rows, table)


def _saved_parts(spec: DatasetSpec) -> dict[str, Part]:
    try:
        saved = load_from_disk(spec.path)
    except (OSError, ValueError, KeyError) as problem:
        raise DataError(f"{spec.path} is a save_to_disk folder that cannot be read: {problem}") from problem
    splits = saved if isinstance(saved, DatasetDict) else {"train": saved}
    several = len(splits) > 1
    labels = {str(name): f"{spec.path}[{name}]" if several else spec.path for name in splits}
    return {name: _table_part(splits[name], label) for name, label in labels.items()}


def _hub_parts(spec: DatasetSpec, streaming: bool) -> dict[str, Part]:
    if not _HUB_ID.fullmatch(spec.path) or file_kind(Path(spec.path)) in (*KINDS, *TABLE_KINDS):
        beside = [item.name for item in Path(spec.path).parent.glob("*")] if Path(spec.path).parent.is_dir() else []
        hint = did_you_mean(Path(spec.path).name, beside)
        raise DataError(f'no file, folder or match for "{spec.path}".{hint} A Hub dataset is written as user/name')
    splits = _loaded(lambda: load_dataset(spec.path, spec.name, streaming=streaming), spec.path)
    if streaming:
        parts = {name: _stream_part(stream, spec.path) for name, stream in splits.items()}
    else:
        parts = {name: _table_part(table, f"{spec.path}[{name}]") for name, table in splits.items()}
    return _chosen(spec, parts)


def _stream_part(stream: IterableDataset, label: str) -> Part:
    return Part(label, lambda: (Row(f"{label} row {place}", fields) for place, fields in enumerate(stream)))


def _loaded(load: Callable[[], Any], label: str) -> Any:
    """Call a loader of `datasets`; its failures become sentences."""
    try:
        return load()
    except DatasetNotFoundError as problem:
        if "gated" in str(problem).lower():
            raise DataError(
                f'dataset "{label}" is gated: accept its terms at huggingface.co/datasets/{label}, '
                "then log in with: hf auth login"
            ) from problem
        owner, _, name = label.partition("/")
        config = f' If "{name}" is a configuration, write {owner}[name:{name}].' if name else ""
        raise DataError(f'no file, folder or Hub dataset "{label}".{config} {_first_line(problem)}') from problem
    except (ConnectionError, TimeoutError) as problem:
        raise DataError(
            f'"{label}" is no file or folder here, and the Hub cannot be reached: offline and not in the cache. '
            "Download it beforehand, or give a local path"
        ) from problem
    except (DatasetsError, ValueError, RuntimeError, OSError) as problem:
        raise DataError(f'dataset "{label}" cannot be loaded: {_first_line(problem)}') from problem


def _first_line(problem: Exception) -> str:
    return str(problem.__cause__ or problem).strip().split("\n")[0]


def _chosen(spec: DatasetSpec, parts: dict[str, Part]) -> dict[str, Part]:
    if spec.split is None:
        if "train" in parts or len(parts) == 1:
            return parts
        names = ", ".join(parts)
        raise DataError(f'dataset "{spec.path}" has splits: {names}; no "train". Say which: {spec.path}[split:NAME]')
    if spec.split not in parts:
        names = ", ".join(parts)
        hint = did_you_mean(spec.split, parts)
        raise DataError(f'dataset "{spec.path}" has splits: {names}; no "{spec.split}".{hint}')
    return {"train": parts[spec.split]}


# Dividing


def _divided(spec: DatasetSpec, reading: Reading, part: Part) -> Records:
    """Train and test out of a single split."""
    if part.table is None:
        table, notes = _table(part, reading)
        train, test, more = divide(spec, len(table))
        return Records(_selected(table, train), None if test is None else table.select(test), notes + more)
    train, test, more = divide(spec, len(part.table))
    table, notes = _table(part, reading, train)
    held_out, other_notes = _table(part, reading, test) if test is not None else (None, [])
    return Records(table, held_out, notes + other_notes + more)


def _separate(spec: DatasetSpec, reading: Reading, train: Part, test: Part) -> Records:
    """Train and test of a dataset that has both."""
    tables, notes = [], []
    for part, key in ((train, "train"), (test, "test")):
        table, some = _table(part, reading)
        index, more = limit(spec, key, len(table))
        tables.append(_selected(table, index))
        notes += some + more
    return Records(tables[0], tables[1], notes)


def _selected(table: Dataset, index: np.ndarray | None) -> Any:
    return table if index is None else table.select(index)


# Reading


def _table(part: Part, reading: Reading, index: np.ndarray | None = None) -> tuple[Dataset, list[str]]:
    """All records of a part as a table, and notes about those that were skipped."""
    if part.table is None:
        return records_table(part.rows(), part.label, reading)
    if _is_tokenised(part.table, reading):
        return _selected(part.table, index), []
    return records_table(_table_part(part.table, part.label, index).rows(), part.label, reading)


def _is_tokenised(table: Dataset, reading: Reading) -> bool:
    names = table.column_names
    readable = {"text": {reading.text_field}, "conversation": {"messages", "conversations", "output", "assistant"}}
    return "input_ids" in names and (reading.preprocessed or not readable[reading.want] & set(names))


# Streaming


def _streamed(spec: DatasetSpec, reading: Reading, train: Part, test: Part | None) -> Records:
    if spec.seed is not None:
        raise ConfigError(f'dataset "{spec}": a stream is not shuffled, so seed has no effect; leave it out')
    wanted, tests = _whole_number(spec, "train"), _whole_number(spec, "test")
    first = 0 if test else tests or 0
    last = None if wanted is None else first + wanted

    def start() -> Iterator[dict[str, Any]]:
        return itertools.islice(records_stream(train.rows(), train.label, reading), first, last)

    if tests is None:
        return Records(start)
    source = test or train
    return Records(start, first_records(source.rows(), source.label, reading, tests))


def _whole_number(spec: DatasetSpec, key: str) -> int | None:
    value = getattr(spec, key)
    if isinstance(value, float):
        raise ConfigError(f'dataset "{spec}": a stream has no known length; give {key} as a number of rows')
    return value
