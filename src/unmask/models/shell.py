"""The network as transformers sees it: a `PreTrainedModel` around a trunk and its head, and a `Denoiser`.

Of transformers it takes the module (PEFT, Trainer and accelerate know what to do with one) and none of its reading and
writing of files: see `checkpoints.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel

from unmask.errors import ModelError
from unmask.models.facts import Facts
from unmask.models.freed import keep_freed
from unmask.models.fused_nll import Head
from unmask.models.kv_cache import Fed, KVCache
from unmask.models.linear import pack
from unmask.models.native.judge import NativeJudge
from unmask.models.packed import Loan
from unmask.models.shift import predicting_columns
from unmask.types import AttentionSpec, DenoiserOutput

# rows computed at once of a head that an adapter is around, where only the likelihood is wanted
_HEAD_ROWS = 512
# what callers of transformers' save_pretrained pass without meaning anything by it
_NEUTRAL = {"is_main_process": True, "state_dict": None, "safe_serialization": True, "push_to_hub": False}


class ShellConfig(PreTrainedConfig):
    """The official configuration, verbatim, where transformers expects one."""

    def __init__(self, facts: Facts | None = None, **rest: Any) -> None:
        super().__init__(**rest)
        self.official: dict[str, Any] = dict(facts.config) if facts else {}
        if facts is not None:
            self.model_type = facts.family.model_type  # type: ignore[reportAttributeAccessIssue]
            self.vocab_size = facts.shape.vocab_size
            self.hidden_size = facts.shape.width
            self.num_hidden_layers = facts.shape.layers
            self.tie_word_embeddings = facts.shape.tied
            self.mask_token_id = facts.mask_token_id

    def to_dict(self) -> dict[str, Any]:
        """The official file."""
        return dict(self.official)


class Aligned:
    """An autoregressive model as a `Denoiser`: row i predicts token i."""

    def __init__(self, model: DiffusionModel) -> None:
        self.model, self.new_cache, self.can_branch = model, model.new_cache, False

    def __call__(self, tokens_BL: Tensor, **asked: Any) -> DenoiserOutput:
        """See `Denoiser`."""
        self.model.is_aligned = True
        try:
            return self.model(tokens_BL, **asked)
        finally:
            self.model.is_aligned = False


class DiffusionModel(PreTrainedModel):
    """A masked diffusion language model of any family.

    Attributes:
        family: its facts. facts: what its own `config.json` says.
        mask_token_id: the checkpoint's; None where it has no mask token.
        is_aligned: in an autoregressive family too, row i predicts token i: see `Aligned`.
        can_branch: rows may hold several states of a block.
    """

    can_branch = True
    config_class = ShellConfig
    base_model_prefix = "trunk"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Layer"]
    _tied_weights_keys = {"head.weight": "trunk.embed.weight"}
    # the objective returns sums that the trainer divides once: no second division by the number of micro-batches
    accepts_loss_kwargs = True

    def __init__(self, facts: Facts) -> None:
        super().__init__(ShellConfig(facts))
        self.facts = facts
        self.family = facts.family
        self.is_aligned = False
        self.mask_token_id = facts.mask_token_id if facts.mask_token_id is not None else facts.family.mask_token_id
        module, _, attribute = facts.family.trunk.partition(":")
        self.trunk = getattr(import_module(module), attribute)(facts.shape)
        self.head = Head(facts.shape.width, facts.shape.vocab_size, bias=False)
        self.tie()
        self.post_init()

    def tie(self) -> None:
        """Make the head's weight the embedding's, where the checkpoint says so.

        The head stays a module of its own: under FSDP a weight exists only while its module runs.
        """
        if self.facts.shape.tied:
            self.head.weight = self.trunk.embed.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        attention: AttentionSpec | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        logits_at: Tensor | None = None,
        targets: Tensor | None = None,
        signal: Tensor | None = None,
    ) -> DenoiserOutput:
        """Predict the clean token of every position, or of some; in an autoregressive family, the one after it.

        Args:
            input_ids: int64 `[B, L]`.
            attention_mask: `[B, L]`, 0 where a position is padding, in the way of transformers; `attention` says more.
            attention: who sees whom; None: all that the checkpoint's own pattern lets see each other.
            positions: int64 `[B, L]`; None: 0, 1, 2, ...
            cache: keys and values of other columns; it says where these rows belong.
            logits_at: int64 `[n]` flat positions into `[B * L]` where the head runs; None: everywhere.
            targets: int64 `[n]` ids; then their negative log-likelihood is returned and no logits.
            signal: self-conditioning; no family here uses it.

        Returns:
            logits `[B, L, V]` or `[n, V]` and hidden `[B, L, D]` (None where `logits_at` is given and no more was
            computed), or nll float32 `[n]` in nats. The hidden states are
            the network's, row by row, also where a family's row i predicts token i + 1; logits and nll are aligned.
        """
        if attention is None and attention_mask is not None:
            attention = AttentionSpec(document_BL=attention_mask.long() - 1, packed=False)
        batch, length = input_ids.shape
        attention = self._allowed(attention, cache.seen(length) if cache else length)
        is_shifted = self.family.shift or (self.is_aligned and self.family.attention == "causal")
        fed = Fed.of(cache, (batch, length)) if cache is not None and is_shifted else None
        if cache is not None and fed is not None:
            input_ids, seen = self._needed(input_ids, attention, cache)
        else:
            seen = attention
        at = None if is_shifted else logits_at
        hidden = self.trunk(input_ids, attention=seen, positions=positions, cache=cache, at=at)
        wanted = hidden
        if cache is not None and fed is not None:
            cache.remember(fed, hidden)
            wanted = self._before_cached(cache, fed, logits_at, attention)
        elif is_shifted:
            wanted = self._before(hidden, logits_at, attention)
        if targets is not None:
            # not the hidden states: mixed precision would copy them to float32 for nobody
            return DenoiserOutput(nll=self._nll(wanted, targets))
        return DenoiserOutput(logits=self._logits(wanted), hidden=hidden if at is None else None)

    def _allowed(self, asked: AttentionSpec | None, length: int) -> AttentionSpec | None:
        """What was asked for, as far as the checkpoint's own pattern allows it over `length` positions."""
        kind, window = self.family.attention, self.facts.shape.window
        if kind == "causal" and (asked is None or asked.kind == "bidirectional"):
            asked = replace(asked or AttentionSpec(), kind="causal")
        if window is not None and length > window:
            # ours is the largest distance, the configuration's counts the token itself
            asked = replace(asked or AttentionSpec(), window=window - 1)
        return asked

    def _needed(
        self, input_ids: Tensor, attention: AttentionSpec | None, cache: KVCache
    ) -> tuple[Tensor, AttentionSpec | None]:
        """What has to be fed: the last columns predict nothing if each row sees only what is before it."""
        if self.family.attention != "causal" or not 0 < cache.scratch < input_ids.shape[1]:
            return input_ids, attention
        kept = input_ids[:, : -cache.drop_scratch()]
        return kept, None if attention is None else attention.up_to(cache.seen(kept.shape[1]))

    def _before(self, hidden_BLD: Tensor, at: Tensor | None, attention: AttentionSpec | None) -> Tensor:
        """The hidden states that predict what is asked for, each of the column before it: `models/shift.py`."""
        batch, length, width = hidden_BLD.shape
        flat = torch.arange(batch * length, device=hidden_BLD.device) if at is None else at
        row, column = flat // length, flat % length
        source = predicting_columns(row, column, batch=batch, attention=attention)
        wanted = hidden_BLD.flatten(0, 1).index_select(0, row * length + source)
        return wanted.view(batch, length, width) if at is None else wanted

    def _before_cached(self, cache: KVCache, fed: Fed, at: Tensor | None, attention: AttentionSpec | None) -> Tensor:
        """The same out of what the cache remembers, of the columns just fed and of those before them."""
        assert cache.hidden is not None
        batch, length = fed.shape
        flat = torch.arange(batch * length, device=cache.hidden.device) if at is None else at
        row, place = flat // length, flat % length
        column = fed.columns[row, place] if isinstance(fed.columns, Tensor) else fed.columns + place
        source = predicting_columns(row, column, batch=batch, attention=attention)
        wanted = cache.hidden[row if fed.rows is None else fed.rows[row], source]
        return wanted.view(batch, length, -1) if at is None else wanted

    def _logits(self, hidden: Tensor) -> Tensor:
        logits, scale = self.head(hidden), self.facts.shape.logit_scale
        return logits if scale == 1.0 else logits * scale

    def _nll(self, hidden_nD: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihoods without the logits; of a head that an adapter is around, a few rows at a time."""
        if isinstance(self.head, Head):
            return self.head(hidden_nD, targets, self.facts.shape.logit_scale)
        chunks = zip(hidden_nD.split(_HEAD_ROWS), targets.split(_HEAD_ROWS), strict=True)
        return torch.cat([checkpoint(self._chunk_nll, rows, wanted, use_reentrant=False) for rows, wanted in chunks])

    def _chunk_nll(self, hidden_nD: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self._logits(hidden_nD).float(), targets, reduction="none")

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        """Empty storage for keys and values of so many batch rows and columns."""
        return self.trunk.new_cache(rows, capacity)

    def packed(self) -> list[Loan]:
        """Copies of weights that make products of few positions faster on a processor.

        They are in use while they are kept, in `torch.inference_mode` alone: numbers differ in their last digits.
        """
        keep_freed()
        return pack(self)

    def judge(self) -> Callable[[Tensor, Tensor, Sequence[int]], tuple[Tensor, Tensor] | None] | None:
        """The most probable tokens at places that are pending, as compiled models find them: see `native/judge.py`."""
        return NativeJudge() if self.trunk.is_native else None

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding."""
        return self.trunk.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding."""
        self.trunk.embed = value

    def get_output_embeddings(self) -> nn.Linear:
        """The head."""
        return self.head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the head."""
        self.head = new_embeddings

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Any = None, *, strategy: str = "whole_layer"
    ) -> None:
        """Compute activations again in the backward pass, by one of `recompute.STRATEGIES`."""
        del gradient_checkpointing_kwargs
        self.trunk.recompute_activations(strategy)

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations."""
        self.trunk.recompute_activations(None)

    def save_pretrained(self, save_directory: Any, *, max_shard_size: str = "5GB", **others: Any) -> None:  # type: ignore[override]
        """Write the checkpoint in the family's own layout: `checkpoints.save_model`.

        Raises:
            ModelError: an option of transformers' own method is given that has no counterpart here.
        """
        from unmask.models.checkpoints import save_model

        refused = [name for name, value in others.items() if value != _NEUTRAL.get(name, ...)]
        if refused:
            raise ModelError(f"save_pretrained takes a folder and max_shard_size; got {', '.join(refused)} too.")
        save_model(self, save_directory, max_shard_size=max_shard_size)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> DiffusionModel:
        """Refused: transformers would read names and configuration in its own way."""
        raise ModelError("DiffusionModel.from_pretrained does not exist. Use unmask.load(folder).model.")

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Refused: the configuration would no longer describe the weights."""
        raise ModelError("the vocabulary of a loaded model is fixed. Set vocab_size in config.json for a new model.")

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: `checkpoints.py` fills the weights, from a file or by the family's rule."""
