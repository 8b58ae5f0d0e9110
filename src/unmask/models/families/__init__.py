"""What a kind of checkpoint is, as data. One file per kind; this one defines the record and how names are mapped."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Attention = Literal["bidirectional", "causal", "block_causal"]


@dataclass(frozen=True)
class KeyMap:
    """Module paths of the official code and of ours, `{}` standing for the number of a layer or of an expert.

    It maps modules, not tensors, so that weights, biases and the tensors of adapters all travel by it. Where several
    official modules are one of ours, stacked, our path ends in the place in it: `experts.gate_proj[{}]`.
    """

    pairs: tuple[tuple[str, str], ...]

    def to_ours(self, module_path: str) -> str | None:
        """Our path of an official module, or None when the official layout has no such module."""
        return _translate(module_path, self._official)

    def to_official(self, module_path: str) -> str | None:
        """The official path of one of our modules, or None."""
        return _translate(module_path, self._ours)

    @cached_property
    def _official(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(official), ours) for official, ours in self.pairs]

    @cached_property
    def _ours(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(ours), official) for official, ours in self.pairs]


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path).replace(r"\{\}", r"(\d+)"))


def _translate(path: str, table: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, replacement in table:
        if match := pattern.fullmatch(path):
            return replacement.format(*match.groups())
    return None


@dataclass(frozen=True)
class ConfigReader:
    """Which keys of an official `config.json` mean what: an allow-list.

    Attributes:
        shape: builds the network's shape out of a configuration completed with `defaults`.
        required: keys that a file must hold.
        defaults: keys that a file may leave out, with the value that the official code then takes.
        fixed: key -> the values that our forward pass implements; any other is refused.
        ignored: keys that change nothing in the forward pass.
    """

    shape: Callable[[Mapping[str, Any]], Any]
    required: tuple[str, ...]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, tuple[Any, ...]]
    ignored: frozenset[str]


@dataclass(frozen=True)
class ModelFamily:
    """The facts of a kind of checkpoint.

    Attributes:
        name: ours, as in the registry. model_type, architecture: as `config.json` spells them.
        tokenizer_class: of transformers; reads official files that have no `tokenizer.json` but a class of their own.
        model_types: further spellings; one that another family has too is this one's where `architecture` is.
        sizes: published checkpoints whose number of parameters is known.
        trunk: `module:attribute` of the forward pass. reader: how to read its configuration.
        keys: names of modules, official <-> ours; `head` and `embed` are ours too.
        mask_token, mask_token_id: used where neither the configuration nor the tokenizer says; None: the checkpoint
            has to say. An autoregressive model has none.
        stop_tokens: strings that end an answer, those that the tokenizer holds.
        eos_token, bos_token: the defaults, likewise.
        chat_template: Jinja; used where the tokenizer brings none.
        lora_targets: `all-linear` spelled out, in the official names.
        tiny_config: an official configuration of a few thousand weights, for tests.
        paper: where the model is described.
        attention: who sees whom. Rows of a `causal`, that is autoregressive, model's logits predict the next token.
            A `block_causal` one was made to write blocks from left to right, each seeing itself and those before it;
            what its network is fed is seen by everybody, unless asked otherwise. A checkpoint may say otherwise.
        block_size: tokens per block of a `block_causal` family, where its checkpoints do not say; None: not known.
        shift: row i of the network predicts token i + 1, as in the autoregressive model it came from; the shell aligns.
    """

    name: str
    model_type: str
    architecture: str
    trunk: str
    reader: ConfigReader
    keys: KeyMap
    mask_token: str | None
    mask_token_id: int | None
    stop_tokens: tuple[str, ...]
    eos_token: str
    bos_token: str
    chat_template: str
    lora_targets: tuple[str, ...]
    tiny_config: Mapping[str, Any]
    paper: str
    attention: Attention = "bidirectional"
    block_size: int | None = None
    shift: bool = False
    tokenizer_class: str | None = None
    model_types: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
