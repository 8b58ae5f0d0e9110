"""Which weights of a model a run trains: all of them, an adapter's, or those that freezing leaves.

Works on models without storage too, so that what would be refused is refused before anything is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase

from unmask.errors import ConfigError
from unmask.models.adapters import LoraSettings, attach_lora, load_adapter
from unmask.models.names import to_official_name
from unmask.models.shell import DiffusionModel
from unmask.training.arguments import Settings

# what --freeze calls them -> our names
_PARTS = {
    "attention": "*.attention.*",
    "mlp": "*.mlp.*",
    "embeddings": "trunk.embed.*",
    "head": "head.*",
    "norms": "*norm.*",
}
# what PEFT puts into the names of weights
_OF_PEFT = re.compile(r"\.(base_layer|original_module|modules_to_save\.default|lora_\w+\.default)(?=\.)")


@dataclass(frozen=True)
class Trained:
    """What is trained.

    Attributes:
        lora: a new adapter of this shape. adapter: folder of one to continue from, instead. freeze: parts of the
            network that stay as they are, by the names of `--freeze`.
    """

    lora: LoraSettings | None = None
    adapter: str | None = None
    freeze: str | list[str] | None = None

    @property
    def adapted(self) -> bool:
        """Whether an adapter is trained, over a frozen base."""
        return self.lora is not None or self.adapter is not None


def trained_of(settings: Settings) -> Trained:
    """What the settings of a run say."""
    chosen = settings.model
    shape = {field.name: getattr(chosen, field.name) for field in fields(LoraSettings)}
    return Trained(LoraSettings(**shape) if chosen.lora else None, chosen.adapter, chosen.freeze)


def make_trained(model: DiffusionModel, chosen: Trained) -> None:
    """Put in the adapter, if there is one, and freeze what is not trained.

    Raises:
        ConfigError: a name fits no weight or layer, or nothing is left to train. ModelError: the adapter is none, or
            belongs to another base.
    """
    if chosen.adapter is not None:
        load_adapter(model, chosen.adapter, trainable=True)
    elif chosen.lora is not None:
        attach_lora(model, chosen.lora)
    freeze(model, chosen.freeze)


def freeze(model: DiffusionModel, names: str | list[str] | None) -> None:
    """Keep some weights as they are: a part of the network, or what contains a text or fits a pattern by its name.

    Raises:
        ConfigError: no weight has such a name, or none is left to train.
    """
    parts = [part.strip() for part in (names.split(",") if isinstance(names, str) else names or []) if part.strip()]
    for part in parts:
        held = [
            weight
            for name, weight in model.named_parameters()
            if _is_meant(part, name) or (part not in _PARTS and _is_meant(part, _official(model, name)))
        ]
        if not held:
            raise ConfigError(f'freeze: no weight has "{part}" in its name. See the names in model.safetensors.')
        for weight in held:
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ConfigError("freeze leaves nothing to train. Name fewer layers.")


def _official(model: DiffusionModel, name: str) -> str:
    """The official name of a weight; of an adapter's, that of the weight beside it."""
    return to_official_name(model.family, _OF_PEFT.sub("", name))


def _is_meant(part: str, name: str) -> bool:
    pattern = _PARTS.get(part, part)
    return fnmatchcase(name, pattern) if set(pattern) & set("*?[") else part in name
