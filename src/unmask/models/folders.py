"""Which folder a name stands for: a local one, a finished run's, a model that comes with the package, one on the Hub.

Nothing in a folder is read here, and of the Hub no code is asked for. Knows no model.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from unmask.errors import ModelError, did_you_mean

# where a finished run leaves its model: the run's folder is a model too; and what the run was told, beside it
FINISHED, RECIPE = "checkpoint-final", "recipe.json"
# models that this package brings along, by the name after `example:`; a run records that name, not a path, as its base
EXAMPLE, EXAMPLES = "example:", {"base": ("demo", "base")}
_WANTED_FROM_HUB = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "tokenizer*"]


def resolve_folder(name_or_path: str | os.PathLike[str], *, weights: bool = True, holds: str = "a config.json") -> Path:
    """The folder of a checkpoint: a local one, one that comes with this package, or a snapshot of a Hub id.

    Args:
        name_or_path: folder, `example:base` or `owner/name`.
        weights: fetch the weights too, not just configuration and tokenizer.
        holds: the file that such a folder is known by, for the message where there is none.

    Raises:
        ModelError: there is no such folder, and no such model can be had from the Hub.
    """
    name, folder = os.fspath(name_or_path), Path(name_or_path)
    if name.startswith(EXAMPLE):
        return _example(name)
    if os.path.isdir(name):  # unlike Path.is_dir, False for names that no file can have
        finished = folder / FINISHED
        return finished if finished.is_dir() and not (folder / "config.json").exists() else folder
    if os.path.exists(name) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f'no folder "{name}". Give a folder with {holds}, or a Hub id such as owner/name.')
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = _WANTED_FROM_HUB if weights else [p for p in _WANTED_FROM_HUB if p != "*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except GatedRepoError:
        raise ModelError(f'model "{name}" is gated: accept its terms on the Hub, then run hf auth login.') from None
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f'no folder "{name}", and no such model on the Hub within reach ({first}). Check the name, or the network.'
        ) from None


def _example(name: str) -> Path:
    known = [EXAMPLE + short for short in EXAMPLES]
    if name not in known:
        raise ModelError(
            f'no model "{name}" comes with unmask; there is {", ".join(known)}.{did_you_mean(name, known)} '
            "Give that, a folder, or a Hub id such as owner/name."
        )
    folder = Path(str(files("unmask").joinpath(*EXAMPLES[name.removeprefix(EXAMPLE)])))
    if not folder.is_dir():
        raise ModelError(f'this installation of unmask lacks its model "{name}" ({folder}). Install the package anew.')
    return folder
