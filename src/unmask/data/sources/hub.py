"""Datasets of the Hugging Face Hub and of ModelScope -> their splits. The one file here that may use the network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetNotFoundError, DatasetsError

from unmask.data.formats import file_kind, is_readable
from unmask.data.rows import BadRow, Row
from unmask.data.sources.local import exists, local_parts
from unmask.data.sources.parts import Part, table_rows
from unmask.data.spec import DatasetSpec
from unmask.errors import DataError, ResourceError

MODELSCOPE = "modelscope:"
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def is_hub_id(path: str) -> bool:
    """Whether a text that names nothing here can be the name of a Hub dataset."""
    return bool(_ID.fullmatch(path)) and not (is_readable(Path(path)) or file_kind(Path(path)) == ".gz")


def hub_parts(spec: DatasetSpec, streaming: bool) -> dict[str, Part]:
    """The splits of a dataset on the Hugging Face Hub.

    Raises:
        DataError: there is none of that name, it is gated, or the Hub cannot be reached.
    """
    splits = _loaded(lambda: load_dataset(spec.path, spec.name, streaming=streaming), spec.path)
    if streaming:
        return {name: _stream_part(stream, spec) for name, stream in splits.items()}
    return {name: _table_part(table, f"{spec.path}[{name}]") for name, table in splits.items()}


def _table_part(table: Dataset, label: str) -> Part:
    # The library's fingerprint covers the revision and the configuration that the table came from.
    return Part(label, partial(table_rows, table, label), lambda: str(table._fingerprint), table)


def _stream_part(stream: IterableDataset, spec: DatasetSpec) -> Part:
    def rows() -> Iterator[Row | BadRow]:
        return (Row(f"{spec.path} row {number}", fields) for number, fields in enumerate(stream, 1))

    return Part(spec.path, rows, lambda: str(spec))


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


def modelscope_parts(spec: DatasetSpec) -> dict[str, Part]:
    """The splits of a dataset on ModelScope: its files are downloaded, then read as any folder is.

    `name` is a file, pattern or folder inside it.

    Raises:
        ResourceError: the extra `modelscope` is not installed.
        DataError: there is no such dataset, or nothing in it that can be read.
    """
    name = spec.path.removeprefix(MODELSCOPE)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise DataError(f'dataset "{spec.path}": a ModelScope dataset is written as {MODELSCOPE}owner/name')
    try:
        download = import_module("modelscope").dataset_snapshot_download
    except ImportError as problem:
        raise ResourceError(
            f'dataset "{spec.path}" needs the package modelscope. Install it: pip install "unmask[modelscope]"'
        ) from problem
    try:
        folder = Path(download(name))
    except (OSError, ValueError, RuntimeError, *_own_errors()) as problem:
        raise DataError(f'dataset "{spec.path}" cannot be downloaded: {_first_line(problem)}') from problem
    inside = str(folder / spec.name) if spec.name else str(folder)
    if spec.name and not exists(inside):
        files = ", ".join(sorted(item.name for item in folder.iterdir())[:8])
        raise DataError(f'dataset "{spec.path}" holds no "{spec.name}"; it holds: {files}')
    return local_parts(inside)


def _own_errors() -> tuple[type[Exception], ...]:
    """ModelScope's exceptions, which have no base class but `Exception` in common."""
    classes = vars(import_module("modelscope.hub.errors")).values()
    return tuple(each for each in classes if isinstance(each, type) and issubclass(each, Exception))
