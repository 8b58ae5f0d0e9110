"""The files that weights lie in: one, or several and an index of them. Nothing outside their folder is opened.

Knows no model and no family.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from unmask.errors import ModelError
from unmask.models.json_file import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def holds_weights(folder: Path) -> bool:
    """Whether `folder` has weights in a form that we read."""
    return (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()


def shard_files(folder: Path) -> dict[str, list[str] | None]:
    """Shard file -> tensors to take from it (None: all). Of one file and an index, transformers too takes the file.

    Raises:
        ModelError: there are no weights, or an index names files that are absent or elsewhere.
    """
    if (folder / WEIGHTS).is_file():
        _refuse_a_link_away(folder, WEIGHTS)
        return {WEIGHTS: None}
    index = folder / INDEX
    if not index.is_file():
        raise ModelError(_no_weights(folder))
    try:
        weight_map = read_json(index)["weight_map"]
        shards: dict[str, list[str] | None] = {}
        for name, file in sorted(weight_map.items()):
            shards.setdefault(file, []).append(name)  # type: ignore[union-attr]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is not an index of shards ({error}). Download it again.") from None
    for file in shards:
        if not isinstance(file, str) or Path(file).name != file:
            raise ModelError(f'{index} points outside its folder ("{file}"). Do not use this checkpoint.')
        if not (folder / file).is_file():
            raise ModelError(f"{folder} lacks the shard {file} that its index names. Download it again.")
        _refuse_a_link_away(folder, file)
    return shards


def _refuse_a_link_away(folder: Path, file: str) -> None:
    """A checkpoint brings its own weights along: a link could make it publish somebody else's."""
    home, real = folder.resolve(), (folder / file).resolve()
    # in the Hub's cache a snapshot holds links to the files of all revisions
    store = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if not real.is_relative_to(home) and not real.is_relative_to(store):
        raise ModelError(
            f"{folder / file} is a link to {real}, outside its folder. Put the file itself there, or load the folder "
            "where it is."
        )


def stored_tensors(path: Path, names: list[str] | None) -> Iterator[tuple[str, Tensor]]:
    """Names and values out of a file, one at a time; `names` None: all.

    Raises:
        ModelError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            for name in names if names is not None else file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        size = path.stat().st_size
        raise ModelError(f"{path} ({size:,} bytes) is damaged or cut off: {error}. Download it again.") from None


def _no_weights(folder: Path) -> str:
    unsafe = [path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    if (folder / "adapter_config.json").is_file():
        return f"{folder} is an adapter, not a model. Give its base as the model and this folder as --adapter."
    if unsafe:
        return (
            f"{folder} holds its weights as {unsafe[0]}, a pickle, which can run code when opened. "
            "Convert it to safetensors first."
        )
    return (
        f"{folder} holds a configuration but no weights. Start from scratch: unmask pretrain, or --from_scratch true."
    )
