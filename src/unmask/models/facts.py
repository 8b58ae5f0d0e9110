"""A checkpoint's facts: its `config.json`, read through the family's allow-list. Nothing named in it is executed."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import ModelError, did_you_mean
from unmask.models.families import Attention, ModelFamily
from unmask.models.json_file import read_json
from unmask.registry import FAMILIES

# keys that transformers writes into any configuration and that change no forward pass
_EVERYWHERE = frozenset(
    {
        "_name_or_path",
        "architectures",
        "auto_map",
        "chunk_size_feed_forward",
        "dtype",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "return_dict",
        "tie_word_embeddings",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)

# our own keys, for what a checkpoint was made for where its family's files cannot say so; official code ignores them
ATTENTION, BLOCK_SIZE = "attention", "block_size"
# an autoregressive checkpoint is what its network is: it has no choice
_CHOICES = ("bidirectional", "block_causal")

# far above any model, far below what a hostile file would have us build
_MOST_LAYERS, _LARGEST = 4096, 2**24


@dataclass(frozen=True)
class Facts:
    """What a folder's `config.json` says, and the family it belongs to.

    Attributes:
        config: the file, verbatim.
        shape: the network's shape, as the family's trunk takes it.
        mask_token_id: from the file; None where it does not say.
        attention: who is to see whom while the model is trained and writes: the file's word, or else the family's.
        block_size: tokens per block where that is `block_causal`, counted from a document's beginning; None: not known.
    """

    family: ModelFamily
    config: Mapping[str, Any]
    shape: Any
    mask_token_id: int | None
    attention: Attention = "bidirectional"
    block_size: int | None = None

    def config_with(self, **changes: Any) -> dict[str, Any]:
        """The file with some keys changed, for saving."""
        return {**self.config, **changes}

    def made_for(self, attention: Attention, block_size: int | None = None) -> Facts:
        """The same checkpoint, made for another attention; a model that has these facts is saved with them.

        Raises:
            ModelError: the model is autoregressive, or the block does not fit it.
        """
        config = {key: value for key, value in self.config.items() if key not in (ATTENTION, BLOCK_SIZE)}
        blocks = {} if block_size is None else {BLOCK_SIZE: block_size}
        return facts_of({**config, ATTENTION: attention, **blocks}, where=f"this {self.family.name} model")


def read_facts(folder: Path) -> Facts:
    """Read `config.json` in `folder`.

    Raises:
        ModelError: no such file, not a configuration we know, or one that our forward pass does not implement.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} holds no config.json, so it is no checkpoint. Give a folder or a Hub id that does.")
    try:
        config = read_json(path)
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}. Download or write it again.") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds a {type(config).__name__}, not a configuration. Download or write it again.")
    return facts_of(config, where=str(path))


def facts_of(config: Mapping[str, Any], *, where: str = "config.json") -> Facts:
    """Interpret a configuration; `where` names it in messages. Raises ModelError as `read_facts` does."""
    family = _family_of(config, where)
    reader = family.reader
    known = {*reader.required, *reader.defaults, *reader.fixed, *reader.ignored, *_EVERYWHERE}
    known |= set() if family.attention == "causal" else {ATTENTION, BLOCK_SIZE}
    for key in config:
        if key not in known:
            raise ModelError(
                f'{where}: key "{key}" is not known for {family.name} and might change the model.'
                f"{did_you_mean(key, known)} Remove it if it has no effect."
            )
    missing = [key for key in reader.required if config.get(key) is None]
    if missing:
        raise ModelError(f"{where} lacks {', '.join(missing)}, without which a {family.name} model has no shape.")
    complete = ChainMap(dict(config), dict(reader.defaults))
    for key, allowed in reader.fixed.items():
        if complete[key] not in allowed:
            raise ModelError(
                f"{where}: {key}={complete[key]!r} is not supported for {family.name}; "
                f"supported: {', '.join(map(repr, allowed))}."
            )
    _check_types(family, complete, where)
    shape = _checked_shape(family, complete, where)
    mask_token_id = _mask_token_id(config, shape.vocab_size, where)
    return Facts(family, dict(config), shape, mask_token_id, *_attention(family, config, shape.max_length, where))


def _family_of(config: Mapping[str, Any], where: str) -> ModelFamily:
    model_type, architectures = config.get("model_type"), config.get("architectures") or ()
    families = [FAMILIES.get(name) for name in FAMILIES.names()]
    spelled = [family for family in families if model_type in (family.model_type, *family.model_types)]
    # the official LLaDA-MoE calls itself llada, as the dense one does
    for family in spelled:
        if len(spelled) == 1 or family.architecture in architectures:
            return family
    for family in spelled:
        if family.model_type == model_type:
            return family
    known = sorted({family.model_type for family in families}, key=str.lower)
    raise ModelError(
        f'{where}: model_type "{model_type}" is not supported; supported: {", ".join(known)}.'
        f"{did_you_mean(str(model_type), known)}"
    )


def _check_types(family: ModelFamily, config: Mapping[str, Any], where: str) -> None:
    """A value is of the type of its key's default: `"false"` is no boolean and `"1e-5"` no number."""
    for key, default in family.reader.defaults.items():
        value, is_flag = config[key], isinstance(default, bool)
        if is_flag and not isinstance(value, bool):
            raise ModelError(f"{where}: {key} is {value!r}; it must be true or false.")
        if isinstance(default, int | float) and not is_flag and not _is_number(value):
            raise ModelError(f"{where}: {key} is {value!r}; it must be a number of at least 0.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _checked_shape(family: ModelFamily, config: Mapping[str, Any], where: str) -> Any:
    try:
        shape = family.reader.shape(config)
    except TypeError as error:
        raise ModelError(f"{where}: a value has the wrong type ({error}). Compare it with the original.") from None
    except ValueError as error:
        raise ModelError(f"{where}: {error}. Compare it with the original.") from None
    for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_width", "mlp_width", "max_length"):
        value, most = getattr(shape, name), _MOST_LAYERS if name == "layers" else _LARGEST
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ModelError(f"{where}: the model's {name} is {value!r}; it must be a whole number from 1 to {most:,}.")
    divides = shape.head_dim is not None or shape.width % shape.heads == 0
    if not divides or shape.heads % shape.kv_heads or shape.head_width % 2:
        raise ModelError(
            f"{where}: width {shape.width} must divide into {shape.heads} heads of even width, and these into "
            f"{shape.kv_heads} groups that share keys."
        )
    if not 2 <= shape.rotary_width <= shape.head_width or shape.rotary_width % 2:
        raise ModelError(
            f"{where}: {shape.rotary_width} of the {shape.head_width} numbers of a head cannot be rotated in pairs. "
            "Compare partial_rotary_factor with the original."
        )
    scaling, pairs = shape.rope_scaling, shape.rotary_width // 2
    if scaling is not None and scaling.kind == "longrope" and {len(scaling.short), len(scaling.long)} != {pairs}:
        raise ModelError(
            f"{where}: short_factor and long_factor hold {len(scaling.short)} and {len(scaling.long)} numbers; a head "
            f"of this model is rotated in {pairs} pairs. Compare them with the original."
        )
    return shape


def _mask_token_id(config: Mapping[str, Any], vocab_size: int, where: str) -> int | None:
    mask_token_id = config.get("mask_token_id")
    if mask_token_id is None:
        return None
    if not isinstance(mask_token_id, int) or isinstance(mask_token_id, bool) or not 0 <= mask_token_id < vocab_size:
        raise ModelError(f"{where}: mask_token_id {mask_token_id!r} must lie in 0..{vocab_size - 1}.")
    return mask_token_id


def _attention(
    family: ModelFamily, config: Mapping[str, Any], longest: int, where: str
) -> tuple[Attention, int | None]:
    """Who sees whom, and the size of the blocks."""
    kind = config.get(ATTENTION, family.attention)
    if ATTENTION in config and kind not in _CHOICES:
        raise ModelError(f"{where}: {ATTENTION} is {kind!r}; it can be {' or '.join(_CHOICES)}.")
    size = config.get(BLOCK_SIZE, family.block_size if kind == family.attention else None)
    if size is None:
        return kind, None
    if kind != "block_causal":
        raise ModelError(f"{where}: {BLOCK_SIZE} is {size!r}, but attention is {kind}. Blocks are of block_causal.")
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= longest:
        raise ModelError(f"{where}: {BLOCK_SIZE} is {size!r}; it must be a whole number from 1 to {longest:,}.")
    return kind, size
