"""A model card: `README.md` beside weights, which the Hub and people read. Knows what is true of any model of ours."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import ResourceError
from unmask.registry import FAMILIES

CARD = "README.md"
_USE_BASELINE = (
    "## Use\n\nAn autoregressive baseline: `transformers` opens it with `AutoModelForCausalLM`, or PEFT does."
)


@dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes:
        title: its heading. summary: a sentence or two. base: folder or Hub id that the weights come from.
        is_adapter: the folder holds an adapter, not a model. family: of the model.
        datasets: names on the Hub. sections: title and Markdown of each.
        block_size: of a model that was made for blocks; None: it sees whole rows.
    """

    title: str
    summary: str
    family: str
    base: str | None = None
    is_adapter: bool = False
    datasets: tuple[str, ...] = ()
    sections: tuple[tuple[str, str], ...] = ()
    block_size: int | None = None

    def markdown(self) -> str:
        """The file."""
        use = [_USE_BASELINE] if self._autoregressive else [_use(self.is_adapter), _sampling(self.block_size)]
        parts = [self._front_matter(), f"# {self.title}", self.summary, *use]
        parts += [f"## {title}\n\n{text}" for title, text in self.sections]
        return "\n\n".join(parts) + "\n"

    @property
    def _autoregressive(self) -> bool:
        return self.family in FAMILIES.names() and FAMILIES.get(self.family).attention == "causal"

    def _front_matter(self) -> str:
        from huggingface_hub import ModelCardData

        known: dict[str, Any] = {
            "library_name": "peft" if self.is_adapter else "unmask",
            "pipeline_tag": "text-generation",
            "tags": ["unmask", "autoregressive" if self._autoregressive else "masked-diffusion", self.family],
        }
        if self.base and is_hub_id(self.base):
            known |= {"base_model": self.base, "base_model_relation": "adapter" if self.is_adapter else "finetune"}
        if self.datasets:
            known["datasets"] = list(self.datasets)
        return f"---\n{ModelCardData(ignore_metadata_errors=False, **known).to_yaml()}\n---"


def _use(is_adapter: bool) -> str:
    note = "The folder holds an adapter; its base is loaded with it.\n\n" if is_adapter else ""
    return (
        f"## Use\n\n{note}```python\nimport unmask\n\n"
        'lm = unmask.load("path/to/this/folder")\n'
        'print(lm.generate("Once upon a time", max_new_tokens=64, steps=64)[0].text)\n```'
    )


def _sampling(block_size: int | None) -> str:
    """What `generate` does where nothing is said; written down because a card outlives the version that wrote it."""
    blocks = "32, or all of a short answer at once" if block_size is None else f"{block_size}, as it was trained"
    rows = (
        ("strategy", "confidence"),
        ("steps", "as many as new tokens: one each, the most certain first"),
        ("block_size", blocks),
        ("temperature", "0"),
        ("guidance_scale", "0"),
        ("cache", "none" if block_size is None else "block"),
    )
    return f"## Sampler settings\n\n{table(rows)}"


def table(rows: Iterable[Sequence[str]]) -> str:
    """Names and values as Markdown."""
    lines = [" | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(["| | |", "| --- | --- |", *(f"| {line} |" for line in lines)])


def saved_card(model: Any, folder: Path) -> Card:
    """The card of a model that was saved as it stands; what was done to it between loading and saving is not known."""
    base, parameters = str(model.config._name_or_path or "") or None, model.num_parameters()
    adapted = bool(getattr(model, "peft_config", None))
    origin = f" from `{base}`" if base else ""
    kind = "autoregressive" if model.family.attention == "causal" else "masked diffusion"
    return Card(
        title=folder.resolve().name,
        summary=f"A {kind} language model of the {model.family.name} family with {parameters:,} weights, "
        f"loaded{origin} and saved with `unmask`.",
        family=model.family.name,
        base=base,
        is_adapter=adapted,
        sections=(("Paper", model.family.paper),) if model.family.paper else (),
        block_size=model.facts.block_size,
    )


def is_hub_id(name: str) -> bool:
    """Whether a name can be a repository's on the Hub: `owner/name`, and no folder here."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not os.path.exists(name)


def write_card(folder: str | os.PathLike[str], card: Card) -> None:
    """Write `README.md` into `folder`.

    Raises:
        ResourceError: it cannot be written.
    """
    try:
        (Path(folder) / CARD).write_text(card.markdown(), encoding="utf-8")
    except OSError as error:
        raise ResourceError(
            f"cannot save to {folder}: {error.strerror}. Free space or choose another folder."
        ) from None
