"""`--trace FILE`: how a text was written, as JSON, as a page that plays it, or as a moving picture."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from unmask.generation.options import GenerationOptions
    from unmask.generation.player import Recording
    from unmask.lm import DiffusionLM, Generation

KINDS = (".html", ".json", ".gif")
HELP = "Write what was committed where and when: FILE.html (a player), FILE.json, or FILE.gif (needs Pillow)."
# settings that are another name for the file asked for, or that only repeat what the rows say
_LEFT_OUT = ("trace", "guidance_keep", "suppress_tokens", "begin_suppress_tokens")


@dataclass(frozen=True)
class About:
    """Who wrote the rows, how, and in how many seconds."""

    lm: DiffusionLM
    options: GenerationOptions
    seconds: float


def check(file: str | None) -> None:
    """Refuse a trace file that cannot be written, before anything is loaded.

    Raises:
        ConfigError: its name has another ending, or its place cannot be written.
        ResourceError: a moving picture is asked for and Pillow is not installed.
    """
    if file is None:
        return
    suffix, target = Path(file).suffix.lower(), Path(file).expanduser().absolute()
    if suffix not in KINDS:
        raise ConfigError(f'--trace {file}: the name must end in {", ".join(KINDS)}; got "{suffix or file}".')
    if not target.parent.is_dir():
        raise ConfigError(f"--trace {file}: there is no folder {Path(file).parent}. Create it first.")
    if target.is_dir():
        raise ConfigError(f"--trace {file} is a folder. Name a file in it: {Path(file) / 'trace.html'}")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise ConfigError(f"--trace {file} cannot be written: permission denied. Choose another place.")
    if suffix == ".gif" and find_spec("PIL") is None:
        raise ResourceError(
            f"--trace {file}: a .gif needs Pillow. Install it: pip install 'unmask[gif]'. "
            f"Or write {Path(file).with_suffix('.html')}"
        )


def write(file: str | None, prompts: Sequence[Any], results: Sequence[Generation], about: About) -> None:
    """Write the trace of every row into one file.

    Raises:
        ConfigError: the file cannot be written.
    """
    if file is None:
        return
    recording = record(prompts, results, about)
    target = Path(file).expanduser()
    try:
        if target.suffix.lower() == ".gif":
            from unmask.cli.trace_gif import write_gif

            _tell_missing(file, write_gif(recording, target))
        else:
            text = recording.to_html() if target.suffix.lower() == ".html" else recording.to_json()
            target.write_text(text, "utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"--trace {file} cannot be written: {error.strerror}.") from None


def _tell_missing(file: str, letters: set[str]) -> None:
    if letters:
        some = " ".join(sorted(letters)[:8]) + (" ..." if len(letters) > 8 else "")
        print(
            f"{file}: no font here has {len(letters):,} of its letters ({some}); they are drawn as escapes. "
            f"{Path(file).with_suffix('.html')} would show them in the browser's fonts.",
            file=sys.stderr,
        )


def record(prompts: Sequence[Any], results: Sequence[Generation], about: About) -> Recording:
    """The rows with the text of their tokens."""
    from unmask.generation.player import Played, Recording, Vocabulary

    options = {name: value for name, value in asdict(about.options).items() if name not in _LEFT_OUT}
    name = _shown_name(os.fspath(about.lm.model.config._name_or_path or ""))
    return Recording(
        [
            Played(result.trace, prompt, result.text, result.finish_reason, result.stats)
            for prompt, result in zip(prompts, results, strict=True)
            if result.trace is not None
        ],
        Vocabulary.of(about.lm.tokenizer),
        {"model": name, "options": options, "seconds": round(about.seconds, 3)},
    )


def _shown_name(name: str) -> str:
    """A Hub id as it is; of a folder its own name: the page may be sent to others."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    return folder.parent.name if folder.name.startswith("checkpoint-") else folder.resolve().name
