"""What tokenised data was made of, written beside it, so that it is known again and never taken for other data.

The recipe of a dataset covers the content of its files, the tokenizer, the settings that matter and the code that made
it; two datasets with the same recipe are the same.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from unmask.data.settings import DataSettings, Mode
from unmask.data.sources.named import Sources
from unmask.errors import DataError

FILE = "prepared.json"
_MATTERS: dict[Mode, tuple[str, ...]] = {
    "pretrain": ("max_length", "text_field", "insert_eos", "drop_tail", "packing"),
    "sft": ("max_length", "truncation", "mask_prompt_loss", "train_turns"),
}
_ALWAYS = ("skip_bad_rows", "load_preprocessed_data")


@dataclass(frozen=True)
class Manifest:
    """The file beside tokenised data.

    Attributes:
        recipe: what the data was made of. vocabulary: digest of the tokenizer's ids.
        notes: what was said when it was made. mixture: sizes and weights of the datasets in it, or None.
        counts: rows and tokens of each split. files: name -> bytes of every data file.
    """

    recipe: dict[str, Any]
    vocabulary: str
    notes: list[str] = field(default_factory=list)
    mixture: list[list[float]] | None = None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into a folder, the sizes of the files there included."""
        sizes = {name: file.stat().st_size for name, file in _files(folder).items()}
        (folder / FILE).write_text(json.dumps({**asdict(self), "files": sizes}, indent=1) + "\n", encoding="utf-8")

    def damage(self, folder: Path) -> str:
        """The name of a file that is missing or was cut off since; empty: none."""
        there = _files(folder)
        broken = (name for name, size in self.files.items() if name not in there or there[name].stat().st_size != size)
        return next(broken, "")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none that can be read."""
    try:
        return Manifest(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def check_prepared(sources: Sources, tokenizer: Any) -> None:
    """Refuse prepared data that is damaged, or was made with a tokenizer whose ids mean something else.

    Raises:
        DataError: it is.
    """
    for one in (*sources.trained, *sources.evaluated):
        place = Path(one.spec.path)
        for folder in (place, place.parent):
            manifest = read_manifest(folder)
            if manifest is None:
                continue
            if broken := manifest.damage(folder):
                raise DataError(f"{folder / broken} is damaged or missing since it was prepared. Prepare it anew")
            if manifest.vocabulary != vocabulary_of(tokenizer):
                raise DataError(f"{folder} was made with another tokenizer than the model's. Prepare it anew")


def _files(folder: Path) -> dict[str, Path]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != FILE)
    return {file.relative_to(folder).as_posix(): file for file in files}


def recipe_of(sources: Sources, data: DataSettings, tokenizer: Any, mode: Mode, **more: Any) -> dict[str, Any]:
    """Everything that decides what the tokens of these datasets are.

    Reads the local files once, to know their content.
    """
    opened = [("train", one) for one in sources.trained] + [("eval", one) for one in sources.evaluated]
    datasets = [
        [role, str(one.spec), *(part.identity() for part in (one.train, one.test) if part)] for role, one in opened
    ]
    settings = {name: getattr(data, name) for name in (*_MATTERS[mode], *_ALWAYS)}
    made_with = [transformers.__version__, tokenizers.__version__, _code()]
    recipe = {"mode": mode, **settings, **more, "datasets": datasets, "tokenizer": _tokenizer(tokenizer)}
    return {**recipe, "made_with": made_with}


def digest(value: Any) -> str:
    """A short name for a value that JSON can write."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def vocabulary_of(tokenizer: Any) -> str:
    """A digest of which id means which token."""
    return digest(sorted(tokenizer.get_vocab().items()))


def _tokenizer(tokenizer: Any) -> str:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # These two are what the last call left behind.
    backend.pop("truncation", None)
    backend.pop("padding", None)
    special = [str(token) for token in tokenizer.all_special_tokens]
    return digest([backend, special, tokenizer.chat_template, tokenizer.eos_token_id, tokenizer.mask_token_id])


@cache
def _code() -> str:
    """A digest of the code of this folder: a changed reader makes other tokens."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return digest([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
