"""Which model this is: a hash of all that its outputs depend on. Knows no name and no folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unmask.lm.model import DiffusionLM
from unmask.models.quantized import quantization_of
from unmask.models.shell import DiffusionModel
from unmask.models.tokenizers import stop_token_ids

# a core hashes about 1 GB a second, so that several do it, each a piece at a time
_PIECE, _THREADS = 2**26, min(8, os.cpu_count() or 1)
# of the texts that a tokenizer was given last, and no part of it
_PASSING = ("padding", "truncation")


def fingerprint(lm: DiffusionLM) -> str:
    """A hash of every byte of the weights, an adapter's among them, and their types, and of what else decides outputs:
    the configuration, how an adapter is scaled, the quantisation, the tokenizer, the chat template.

    A copy of a model has that of the model, wherever it lies.
    """
    told = [_network(lm.model), stop_token_ids(lm.tokenizer, lm.model), _tokenizer(lm.tokenizer)]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    named = sorted((name, value) for name, value in lm.model.state_dict().items() if isinstance(value, Tensor))
    digest.update(json.dumps([[name, [*value.shape], str(value.dtype)] for name, value in named]).encode())
    with ThreadPoolExecutor(_THREADS) as threads:
        for part in threads.map(_hash, (piece for _, value in named for piece in _pieces(value))):
            digest.update(part)
    return digest.hexdigest()[:16]


def _network(model: DiffusionModel) -> dict[str, Any]:
    """What is computed with the weights."""
    facts = model.facts
    shape = {name: value for name, value in asdict(facts.shape).items() if not name.startswith("init_")}
    scaling = {path: getattr(module, "scaling", None) for path, module in model.named_modules()}
    return {
        "family": facts.family.name,
        "shape": shape,
        "attention": [facts.attention, facts.block_size],
        "mask": model.mask_token_id,
        "quantization": quantization_of(model),
        # PEFT's: of each adapter on a layer
        "adapters": {path: factors for path, factors in scaling.items() if isinstance(factors, dict)},
    }


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """How texts become ids, ids texts, and messages texts."""
    known: Any = sorted(tokenizer.get_vocab().items())
    if tokenizer.is_fast:
        backend: Any = tokenizer.backend_tokenizer
        known = json.loads(backend.to_str())
        known = {name: value for name, value in known.items() if name not in _PASSING}
    spaces = getattr(tokenizer, "clean_up_tokenization_spaces", None)
    return [known, tokenizer.special_tokens_map, tokenizer.chat_template, spaces]


def _pieces(value: Tensor) -> Iterator[Tensor]:
    flat = value.detach().reshape(-1)
    return iter(flat.split(max(1, _PIECE // flat.element_size())))


def _hash(piece: Tensor) -> bytes:
    return hashlib.sha256(piece.cpu().contiguous().view(torch.uint8).numpy().data).digest()
