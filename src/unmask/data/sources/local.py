"""Files, globs, folders of files and `save_to_disk` folders -> the splits in them. Knows no row and no network."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datasets import DatasetDict, load_from_disk

from unmask.data.formats import READERS, TEXT_KINDS, file_kind, is_readable, read_rows
from unmask.data.formats.token_arrays import BESIDE, LENGTHS, TOKENS, token_columns
from unmask.data.sources.parts import TEST_SPLITS, Part, file_identity, table_rows
from unmask.errors import DataError, did_you_mean

# Files that describe data and hold none.
ABOUT = ("readme.txt", "license.txt", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "prepared.json")


def exists(path: str) -> bool:
    """Whether a path or a pattern names something on this machine."""
    return os.path.exists(path) or bool(matches(path))


def files_of(path: str) -> list[Path]:
    """All files that a path or a pattern stands for, whatever they hold."""
    folder = Path(path)
    return sorted(item for item in folder.rglob("*") if item.is_file()) if folder.is_dir() else matches(path)


def matches(pattern: str) -> list[Path]:
    """The files that a pattern names; a file that exists wins over what its name would mean as a pattern."""
    if os.path.isfile(pattern):
        return [Path(pattern)]
    return sorted(Path(found) for found in glob.glob(pattern, recursive=True) if os.path.isfile(found))


def local_parts(path: str) -> dict[str, Part]:
    """Split name -> rows; data without named splits has one, "train".

    Raises:
        DataError: nothing is there that can be read.
    """
    place = Path(path)
    if place.is_dir():
        return _saved_parts(place) if _is_saved(place) else _file_parts(_folder_files(place), path)
    found = matches(path)
    if not found:
        beside = [item.name for item in place.parent.glob("*")] if place.parent.is_dir() else []
        hint = did_you_mean(place.name, beside)
        raise DataError(f'no file, folder or match for "{path}".{hint} A Hub dataset is written as user/name')
    if glob.has_magic(path) and not place.is_file():
        return {"train": _file_part(_data_files(found) or found, path)}
    return {"train": _file_part(found, path)}


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def _folder_files(folder: Path) -> list[Path]:
    """The data files in a folder, or else in the folders below it."""
    found = _data_files(folder.iterdir()) or _data_files(folder.rglob("*"))
    kinds = Counter(map(file_kind, found))
    if not kinds:
        allowed = ", ".join(READERS)
        raise DataError(f"{folder} holds no data: expected files {allowed}, or a folder made by save_to_disk")
    if len(kinds) > 1:
        mixed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        raise DataError(f"{folder} mixes kinds of files ({mixed}). Name one, for example {folder}/*{min(kinds)}")
    return found


def _data_files(paths: Iterable[Path]) -> list[Path]:
    beside = (*ABOUT, *BESIDE, LENGTHS)
    return sorted(
        path
        for path in paths
        if is_readable(path) and path.is_file() and path.name.lower() not in beside and not path.name.startswith(".")
    )


def _file_parts(files: list[Path], path: str) -> dict[str, Part]:
    """Files named after splits (train.jsonl, test-00.jsonl, test/input_ids.npy) are these; others are one together."""
    names = [_split_name(file) for file in files]
    if len(files) == 1 or "train" not in names or None in names:
        return {"train": _file_part(files, path)}
    grouped = {name: [file for file, of in zip(files, names, strict=True) if of == name] for name in names}
    return {name: _file_part(members, f"{path}[{name}]") for name, members in grouped.items() if name}


def _split_name(file: Path) -> str | None:
    name = file.parent.name if file.name == TOKENS else file.name
    found = re.match(rf"({'|'.join(('train', *TEST_SPLITS))})(?![a-z])", name.lower())
    return found[1] if found else None


def _file_part(files: list[Path], label: str) -> Part:
    unknown = next((file for file in files if not is_readable(file)), None)
    if unknown:
        raise DataError(
            f"{unknown} is no file that can be read; allowed: {', '.join(READERS)}, and .gz of {', '.join(TEXT_KINDS)}"
        )
    content = [place for file in files for place in _content(file)]
    rows, identity = partial(_chained, read_rows, files), partial(file_identity, content)
    arrays = all(file_kind(file) == ".npy" for file in files)
    return Part(label, rows, identity, columns=partial(_chained, token_columns, files) if arrays else None)


def _chained(read: Callable[[Path], Iterator[Any]], files: list[Path]) -> Iterator[Any]:
    return itertools.chain.from_iterable(map(read, files))


def _content(file: Path) -> list[Path]:
    """A file and those that it is read together with."""
    beside = (file.with_name(name) for name in (*BESIDE, LENGTHS)) if file.name == TOKENS else ()
    return [file, *(place for place in beside if place.exists())]


def _saved_parts(folder: Path) -> dict[str, Part]:
    try:
        saved = load_from_disk(str(folder))
    except IndexError as problem:
        raise DataError(f"{folder} holds 0 records: it was saved empty") from problem
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise DataError(f"{folder} is a save_to_disk folder that cannot be read: {problem}") from problem
    if not isinstance(saved, DatasetDict):
        tables = {"train": (str(folder), folder, saved)}
    else:
        tables = {str(name): (f"{folder}[{name}]", folder / str(name), saved[name]) for name in saved}
        if len(tables) == 1:
            tables = {name: (str(folder), place, table) for name, (_, place, table) in tables.items()}
    return {
        name: Part(label, partial(table_rows, table, label), partial(_folder_identity, place), table)
        for name, (label, place, table) in tables.items()
    }


def _folder_identity(folder: Path) -> str:
    return file_identity(files_of(str(folder)))
