"""A Hugging Face tokenizer dressed with what its family needs: mask, end and padding tokens, a chat template.

A checkpoint's own facts come first: `config.json`, then the tokenizer, then the family's defaults.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeGuard, cast

import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

from unmask.errors import ModelError
from unmask.models.facts import Facts, read_facts
from unmask.models.folders import resolve_folder
from unmask.models.shell import DiffusionModel


def load_tokenizer(
    name_or_path: str | os.PathLike[str], facts: Facts | None = None, *, add_mask_token: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, with mask, eos and pad tokens and a chat template.

    That of an autoregressive model has no mask token but one that its own files name.

    Args:
        name_or_path: folder or Hub id.
        facts: the checkpoint's; None: read from the same folder.
        add_mask_token: give the tokenizer a mask token where neither it nor the configuration has one; for training.

    Raises:
        ModelError: no tokenizer, one without a mask or end token, or one with more ids than the model has rows.
    """
    folder = resolve_folder(name_or_path, weights=False)
    facts = facts or read_facts(folder)
    tokenizer = _read(folder, facts)
    _set_end(tokenizer, facts, folder)
    _set_mask(tokenizer, facts, folder, add=add_mask_token)
    if tokenizer.bos_token_id is None and _holds(tokenizer, facts.family.bos_token):
        tokenizer.bos_token = facts.family.bos_token
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        tokenizer.chat_template = facts.family.chat_template
    if len(tokenizer) > facts.shape.vocab_size:
        raise ModelError(
            f"{folder}: the tokenizer has {len(tokenizer):,} ids, the model only {facts.shape.vocab_size:,} rows. "
            "They do not belong together; raise vocab_size and embedding_size in config.json for a new model."
        )
    return tokenizer


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, model: DiffusionModel) -> tuple[int, ...]:
    """Ids that end an answer: the tokenizer's end token, the configuration's, and the family's, where they exist."""
    declared = model.facts.config.get("eos_token_id")
    ids = [tokenizer.eos_token_id, *(declared if isinstance(declared, list) else [declared])]
    ids += [_id(tokenizer, token) for token in model.family.stop_tokens]
    return tuple(sorted({token_id for token_id in ids if _is_id(token_id, tokenizer)}))


def mask_token_id(tokenizer: PreTrainedTokenizerBase, model: DiffusionModel) -> int:
    """The tokenizer's, which was dressed by the checkpoint's facts first; the model may only know its family's default.

    Raises:
        ModelError: the model is autoregressive.
    """
    if model.family.attention == "causal":
        raise ModelError(
            f"a {model.family.name} model is autoregressive: it has no mask token, so that it can continue texts and "
            "score them, but not fill in blanks. Make a diffusion model of it: unmask convert."
        )
    return cast(int, tokenizer.mask_token_id)


def _read(folder: Path, facts: Facts) -> PreTrainedTokenizerBase:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        raise ModelError(f"{folder} holds no tokenizer (tokenizer.json). Copy one there.")
    with _Reading(folder):
        if (folder / "tokenizer.json").is_file():
            # not AutoTokenizer: that would follow `auto_map` to the folder's own code
            return PreTrainedTokenizerFast.from_pretrained(folder)
        if facts.family.tokenizer_class is not None:
            return getattr(transformers, facts.family.tokenizer_class).from_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


class _Reading:
    """Silences transformers, which warns about the model_type of others, and names the folder where reading fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        self.level = logging.get_verbosity()
        logging.set_verbosity_error()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        logging.set_verbosity(self.level)
        # what comes out of the Rust of tokenizers is of the class Exception itself
        if kind is Exception or isinstance(error, OSError | ValueError | KeyError | TypeError | AttributeError):
            raise ModelError(
                f"{self.folder}: the tokenizer cannot be read: {error}. Download or copy it again."
            ) from None


def _id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    found = tokenizer.get_vocab().get(token)
    return found if found is None else int(found)


def _is_id(value: Any, tokenizer: PreTrainedTokenizerBase) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(tokenizer)


def _holds(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    return _id(tokenizer, token) is not None


def _set_end(tokenizer: PreTrainedTokenizerBase, facts: Facts, folder: Path) -> None:
    if tokenizer.eos_token_id is not None:
        return
    declared = facts.config.get("eos_token_id")
    first = declared[0] if isinstance(declared, list) and declared else declared
    if _is_id(first, tokenizer):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(first)
    elif _holds(tokenizer, facts.family.eos_token):
        tokenizer.eos_token = facts.family.eos_token
    else:
        raise ModelError(f"{folder}: the tokenizer has no end-of-text token. Set eos_token in tokenizer_config.json.")


def _set_mask(tokenizer: PreTrainedTokenizerBase, facts: Facts, folder: Path, *, add: bool) -> None:
    """Make `tokenizer.mask_token_id` the checkpoint's mask id, adding the token where its id is the next free one."""
    if facts.family.mask_token is None:
        return
    mask_id = facts.mask_token_id
    if mask_id is None:
        mask_id = cast("int | None", tokenizer.mask_token_id)
    if mask_id is None:
        mask_id = _id(tokenizer, facts.family.mask_token)
    if mask_id is None and add and len(tokenizer) < facts.shape.vocab_size:
        mask_id = len(tokenizer)
    if mask_id is None:
        usual = f'"{facts.family.mask_token}", {facts.family.mask_token_id or "of any id"}'
        raise ModelError(
            f"{folder}: the tokenizer has no mask token, and config.json names none (mask_token_id); the family's is "
            f"{usual}. Add mask_token_id to config.json."
        )
    if mask_id < len(tokenizer):
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(mask_id)
    elif mask_id == len(tokenizer):
        tokenizer.add_special_tokens({"mask_token": facts.family.mask_token})
    else:
        raise ModelError(
            f"{folder}: mask_token_id is {mask_id}, but the tokenizer has only {len(tokenizer):,} ids. "
            f"Set it to one of them, or to {len(tokenizer)} to have the token added."
        )
    if tokenizer.mask_token_id != mask_id:
        raise ModelError(
            f"{folder}: mask_token_id is {mask_id}, but the tokenizer gives its mask token the id "
            f"{tokenizer.mask_token_id}. Set mask_token_id in config.json to an id that the tokenizer has."
        )
