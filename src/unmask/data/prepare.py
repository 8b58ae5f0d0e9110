"""Datasets -> a folder of tokens that a run can start from at once, or a cache of the same that runs keep themselves.

A folder appears whole or not at all. Work that was interrupted goes on where it stopped: what was tokenised lies beside
the folder until it is done.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_from_disk
from filelock import FileLock

from unmask.data.build import Splits, reading_of, tokenised
from unmask.data.manifest import FILE, Manifest, digest, read_manifest, recipe_of, vocabulary_of
from unmask.data.mixture import Mixture
from unmask.data.packing import count_tokens
from unmask.data.scratch import quiet_unless_seen
from unmask.data.settings import DataSettings, Mode
from unmask.data.sources import comes_tokenised
from unmask.data.sources.named import Sources, open_sources
from unmask.data.writing import Format, flush_folder, write_places, write_sets
from unmask.errors import ConfigError

# days that a cached set is kept after its last use
_KEPT_DAYS = 30


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did.

    Attributes:
        folder: with the tokens. to: its format. counts: split -> rows and tokens. notes: lines for the user.
        kept: the folder held just this already. sample: the first training row, as `datasets` gives it.
    """

    folder: Path | None
    to: Format
    counts: dict[str, dict[str, int]]
    notes: list[str]
    kept: bool
    sample: dict[str, Any]


@dataclass(frozen=True)
class Target:
    """Where tokens go.

    Attributes:
        folder: the place; None: nowhere, to see what would come of it. to: the format.
        overlap: tokens that a row of a packed corpus repeats of the one before it.
        overwrite: make them anew where they are there already.
    """

    folder: Path | None
    to: Format = "arrow"
    overlap: int = 0
    overwrite: bool = False


def prepare(data: DataSettings, tokenizer: Any, mode: Mode, target: Target) -> Prepared:
    """Tokenise the datasets of `data` into a folder; one that holds the same already is kept.

    Raises:
        ConfigError: settings that contradict each other, or a folder that holds something else.
        DataError: the data is missing, bad or holds nothing to learn.
    """
    sources = open_sources(data, mode)
    _check(sources, data, mode, target)
    recipe = recipe_of(sources, data, tokenizer, mode, overlap=target.overlap, to=target.to)
    there = read_manifest(target.folder) if target.folder else None
    whole = target.folder and there and not there.damage(target.folder)
    if target.folder and there and whole and there.recipe == recipe and not target.overwrite:
        return Prepared(target.folder, target.to, there.counts, there.notes, True, {})
    _refuse_other(target, there, recipe)
    shards = target.folder and _workplace(target.folder, recipe, target.overwrite)
    splits = tokenised(sources, data, tokenizer, mode, shards=shards, overlap=target.overlap)
    manifest = _manifest(splits, recipe, tokenizer)
    if target.folder and shards:
        done = shards.parent / "done"
        _write(splits, done, target.to, manifest, data, tokenizer)
        _put(done, target.folder)
        shutil.rmtree(shards.parent)
    return Prepared(target.folder, target.to, manifest.counts, splits.notes, False, _sample(splits))


def _sample(splits: Splits) -> dict[str, Any]:
    assert isinstance(splits.train, Dataset)
    return dict(splits.train[0])


def _check(sources: Sources, data: DataSettings, mode: Mode, target: Target) -> None:
    if sources.streaming:
        raise ConfigError("prepare reads everything before it writes, so streaming has no effect. Leave it out")
    weighted = next((one.spec for one in sources.trained if one.spec.weight is not None), None)
    if weighted:
        raise ConfigError(
            f'dataset "{weighted}": a weight belongs to a run. Prepare each dataset by itself, then train from '
            "A[weight:2]+B[weight:1]"
        )
    if target.overlap and mode == "sft":
        raise ConfigError("overlap is for the rows of a corpus (--mode pretrain); conversations are not cut up")
    if target.overlap and data.packing:
        raise ConfigError("overlap is for a corpus that is cut into rows; with packing, documents stay whole")
    if not 0 <= target.overlap < data.max_length:
        raise ConfigError(f"overlap must be from 0 to max_length - 1 ({data.max_length - 1}); got {target.overlap}")


def _refuse_other(target: Target, there: Manifest | None, recipe: dict[str, Any]) -> None:
    folder = target.folder
    if folder is None or not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if there is None and not (folder / FILE).is_file():
        raise ConfigError(f"{folder} is there and was not made by unmask prepare. Choose another output_dir")
    if there and not target.overwrite and not there.damage(folder):
        changed = [name for name in recipe if there.recipe.get(name) != recipe[name]]
        told = "; ".join(f"{name}: {_short(there.recipe.get(name))} -> {_short(recipe[name])}" for name in changed)
        raise ConfigError(
            f"{folder} holds other prepared data ({told}). Choose another output_dir, or replace it: "
            "--overwrite_cache true"
        )


def _short(value: Any) -> str:
    return str(value) if isinstance(value, int | str | bool) and len(str(value)) < 20 else "changed"


def _workplace(folder: Path, recipe: dict[str, Any], anew: bool) -> Path:
    """Where the work on a folder is kept until it is done; what is there of other work is removed."""
    beside = folder.with_name(f".{folder.name}.partial")
    shards = beside / digest(recipe)
    if anew or (beside.exists() and not shards.exists()):
        shutil.rmtree(beside, ignore_errors=True)
    shards.mkdir(parents=True, exist_ok=True)
    return shards


def _manifest(splits: Splits, recipe: dict[str, Any], tokenizer: Any) -> Manifest:
    counts = {name: {"rows": len(rows), "tokens": count_tokens(rows)[1]} for name, rows in _sets(splits).items()}
    mixture = splits.mixture and [list(splits.mixture.sizes), list(splits.mixture.weights)]
    return Manifest(recipe, vocabulary_of(tokenizer), splits.notes, mixture, counts)


def _sets(splits: Splits) -> dict[str, Dataset]:
    assert isinstance(splits.train, Dataset)
    return {"train": splits.train} | ({} if splits.test is None else {"test": splits.test})


def _write(splits: Splits, folder: Path, to: Format, manifest: Manifest, data: DataSettings, tokenizer: Any) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with quiet_unless_seen():
        sets = _sets(splits)
        write_sets(sets, folder, to, width=data.max_length, fill=tokenizer.eos_token_id or 0)
        if to == "arrow":
            for name, places in splits.documents.items():
                write_places(places(), folder / f"documents-{name}.arrow", len(sets[name]))
    manifest.write(folder)
    flush_folder(folder)


def _put(done: Path, folder: Path) -> None:
    """Move a finished folder to its place."""
    if folder.exists():
        folder.rename(done.with_name("old"))
    done.rename(folder)


# The cache of runs


def cache_folder() -> Path:
    """Where runs keep their tokens: UNMASK_CACHE, or `unmask` in the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unmask"
    return Path(os.environ.get("UNMASK_CACHE") or home) / "tokens"


def cached_splits(
    sources: Sources, data: DataSettings, tokenizer: Any, mode: Mode, *, overwrite: bool = False, write: bool = True
) -> Splits:
    """As `tokenised`, but taken from the cache where these very tokens were made before.

    Args:
        sources, data, tokenizer, mode: of the run.
        overwrite: make them anew. write: False looks into the cache and leaves it as it is.
    """
    # Rows that hold tokens need no second copy.
    if sources.streaming or all(comes_tokenised(one, reading_of(data, mode)) for one in sources.trained):
        return tokenised(sources, data, tokenizer, mode)
    recipe = recipe_of(sources, data, tokenizer, mode)
    folder = cache_folder() / digest(recipe)
    # Of several processes of a run one makes the tokens; the others wait and read them.
    with _locked(folder) if write else nullcontext():
        found = None if overwrite and os.environ.get("RANK", "0") == "0" else _from_cache(folder, recipe, touch=write)
        if found:
            return found
        splits = tokenised(sources, data, tokenizer, mode)
        return _into_cache(splits, folder, recipe, data, tokenizer) if write else splits


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        # Where no file can be made nothing will be cached, which is said when it is tried.
        with suppress(OSError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(f"{folder}.lock"))
        yield


def _from_cache(folder: Path, recipe: dict[str, Any], *, touch: bool = True) -> Splits | None:
    manifest = read_manifest(folder)
    if manifest is None or manifest.recipe != recipe or manifest.damage(folder):
        return None
    if touch:
        with suppress(OSError):
            os.utime(folder)
    saved: Any = load_from_disk(str(folder))
    sets = saved if isinstance(saved, DatasetDict) else {"train": saved}
    mixture = None
    if manifest.mixture:
        sizes, weights = manifest.mixture
        mixture = Mixture(tuple(map(int, sizes)), tuple(weights))
    note = f"tokens are taken from an earlier run ({folder}); to make them anew: --overwrite_cache true"
    return Splits(sets["train"], sets.get("test"), [*manifest.notes, note], mixture)


def _into_cache(splits: Splits, folder: Path, recipe: dict[str, Any], data: DataSettings, tokenizer: Any) -> Splits:
    draft = folder.with_name(f"{folder.name}.draft")
    try:
        _write(splits, draft, "arrow", _manifest(splits, recipe, tokenizer), data, tokenizer)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
        _forget_old(folder.parent)
    except OSError as problem:
        return replace(splits, notes=[*splits.notes, f"the tokens are not kept for later runs: {problem}"])
    found = _from_cache(folder, recipe)
    return replace(found, notes=splits.notes) if found else splits


def _forget_old(cache: Path) -> None:
    for folder in cache.iterdir():
        if folder.is_dir() and time.time() - folder.stat().st_mtime > _KEPT_DAYS * 86_400:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
