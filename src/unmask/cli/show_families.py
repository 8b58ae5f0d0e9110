"""The rows of `unmask show families`, and of the table in the README, which a test holds to them.

Read off the registry: what works with a family follows from its facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from unmask.registry import FAMILIES

if TYPE_CHECKING:
    from unmask.models.families import ModelFamily

_DIFFUSION = "pretrain, sft, generate, infill, chat, eval"
_BASELINE = "convert; as a baseline pretrain, sft, generate, chat, eval"
_SPARSE = "unmask.models.moe:"
# where the README has the table
BEGIN, END = "<!-- unmask show families --markdown -->", "<!-- end -->"


def family_rows() -> list[dict[str, str]]:
    """One record per family: its name, what it is, its facts, and what works with it."""
    return [_row(name, FAMILIES.get(name)) for name in FAMILIES.names()]


def _row(name: str, family: ModelFamily) -> dict[str, str]:
    return {
        "name": name,
        "what": _what(name),
        "attention": family.attention.replace("_", "-"),
        "mask token": family.mask_token or "none",
        "shift": "one row" if family.shift else "none",
        "parameters": ", ".join(f"{count / 1e9:.2f} B ({which})" for which, count in family.sizes.items()),
        "works": _works(family),
        "paper": family.paper,
    }


def _what(name: str) -> str:
    """Which checkpoints it is about: how its file begins."""
    if name not in FAMILIES.table:
        return "from a plug-in"
    text = import_module(FAMILIES.table[name].partition(":")[0]).__doc__ or ""
    return text.split("\n\n")[0].split(": ")[0].replace("\n", " ").rstrip(".")


def _works(family: ModelFamily) -> str:
    """Commands, and what adapters reach."""
    lora = "LoRA, on experts too" if family.trunk.startswith(_SPARSE) else "LoRA"
    return f"{_BASELINE if family.attention == 'causal' else _DIFFUSION}; {lora}"


def markdown(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    """A table in Markdown, names and tokens as code."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [row[column].replace("|", "\\|") for column in columns]
        shown = [f"`{cell}`" if "<" in cell or cell == row["name"] else cell for cell in cells]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def families_in_markdown() -> str:
    """The table of the README."""
    return markdown(family_rows(), ("name", "what", "attention", "mask token", "shift", "parameters", "works"))
