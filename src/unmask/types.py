"""The shapes and the few records that every floor shares.

Shape letters, written as suffixes of names (`logits_BLV`):

    B batch rows      L positions of a row   V vocabulary      D model width
    H query heads     G key/value heads      K head width      N blocks
    S samples: units that own one time `t` and one mask; a row holds one, or several when packed
    n positions picked out of the flattened [B * L]

Time `t` runs from 0 (clean) to 1 (all noise).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

AttentionKind = Literal["bidirectional", "causal", "block_causal", "two_stream", "leave_one_out", "branches"]
T = TypeVar("T")


@dataclass(frozen=True)
class AttentionSpec:
    """Who sees whom, as a pattern: no dense tensor.

    A query sees a key when the kind allows it, both belong to the same document and the key is no padding.

    Attributes:
        kind: the pattern inside a document.
        document_BL: int64; index of the document a position belongs to, -1 for padding, which nobody sees
            (a padded query may see anything: its output is never used). None: one document, no padding.
        block_BL: int64; block of a position, for `block_causal` and `two_stream`; for `leave_one_out`, the position
            itself; for `branches`, 0 for what all see, and a number that only those of the same number see.
        stream_BL: int64; 0 noisy, 1 clean, for `two_stream`. For `leave_one_out`: 0 a token, 1 a shadow of the token
            at the same position, which sees itself and every token but that one, and is seen by nobody else.
        packed: False promises that a row holds one document, so that only padding has to be hidden.
        window: largest distance between query and key that may see each other; None: no limit.
        ahead: in a `causal` pattern, share of the later keys that a query sees all the same, drawn pair by pair.
        ahead_seed: of that draw, which all rows share.
    """

    kind: AttentionKind = "bidirectional"
    document_BL: Tensor | None = None
    packed: bool = True
    block_BL: Tensor | None = None
    stream_BL: Tensor | None = None
    window: int | None = None
    ahead: float = 0.0
    ahead_seed: int = 0

    def up_to(self, length: int) -> AttentionSpec:
        """The pattern of the first `length` positions."""
        ids = {name: getattr(self, name) for name in ("document_BL", "block_BL", "stream_BL")}
        return replace(self, **{name: value[:, :length] for name, value in ids.items() if value is not None})


class DenoiserOutput(NamedTuple):
    """What a denoiser returns; what was not asked for is None.

    Attributes:
        logits: float; aligned, row i predicts token i. `[B, L, V]`, or `[n, V]` where `logits_at` was given.
        nll: float32 `[n]`, nats; negative log-likelihood of `targets` at `logits_at`; then no logits are kept.
        hidden: `[B, L, D]`; last hidden states.
        signal: self-conditioning to be passed to the next call.
    """

    logits: Tensor | None = None
    nll: Tensor | None = None
    hidden: Tensor | None = None
    signal: Tensor | None = None


@runtime_checkable
class Denoiser(Protocol):
    """A network that predicts clean tokens from noised ones."""

    def __call__(
        self,
        tokens_BL: Tensor,
        *,
        attention: AttentionSpec | None = None,
        positions: Tensor | None = None,
        cache: Any | None = None,
        logits_at: Tensor | None = None,
        targets: Tensor | None = None,
        signal: Tensor | None = None,
    ) -> DenoiserOutput:
        """Predict; see `DenoiserOutput`.

        Args:
            tokens_BL: int64 ids.
            attention: who sees whom; None: everybody sees everybody.
            positions: int64 `[B, L]`; None: 0, 1, 2, ...
            cache: keys and values of positions that are not fed.
            logits_at: int64 `[n]` flat positions into `[B * L]`; the head runs only there.
            targets: int64 `[n]` ids whose negative log-likelihood is wanted instead of logits.
            signal: self-conditioning.
        """
        ...


@dataclass(frozen=True)
class SampleKeys:
    """Where each of S samples stands, which is all that its noise depends on besides the run's seed.

    Attributes:
        visit_S: int64; number of the sample in the run's visiting order; `t` is a function of it.
        row_S: int64; row of the dataset; the mask is a function of (epoch, row, view).
        epoch_S: int64.
        view: which of several noisy views of the same sample this is.
        update_S: int64; update of the run that the sample belongs to; None: the first.
    """

    visit_S: Tensor
    row_S: Tensor
    epoch_S: Tensor
    view: int = 0
    update_S: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Clean rows, ready to be noised.

    Attributes:
        x0_BL: int64 clean ids.
        may_noise_BL: bool; positions that may be noised and are learned; all others are always given.
        sample_BL: int64; index into `keys` of the sample a position belongs to, -1 for padding.
        keys: identity of the S samples.
        attention: who sees whom; None: everybody sees everybody.
        positions_BL: int64; None: 0, 1, 2, ...
    """

    x0_BL: Tensor
    may_noise_BL: Tensor
    sample_BL: Tensor
    keys: SampleKeys
    attention: AttentionSpec | None = None
    positions_BL: Tensor | None = None

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; DataLoader calls this."""
        return map_tensors(self, Tensor.pin_memory)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True)
class LossSums:
    """Sums over a batch; whoever knows all batches and all ranks divides.

    Attributes:
        loss: float32 scalar, nats; divide by the objective's `count` summed over the update.
        metrics: name -> (sum, count), float32 scalars, detached.
        nll_S: float32; each sample's own bound, nats, where no gradient is wanted and noise was drawn.
        evidence_SE: float32; beside them under evaluation's noise, what their error is reckoned from.
    """

    loss: Tensor
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    nll_S: Tensor | None = None
    evidence_SE: Tensor | None = None


def map_tensors(record: T, change: Any) -> T:
    """A copy of a (nested) frozen dataclass with `change` applied to each tensor in it."""
    changed = {}
    for entry in fields(record):  # type: ignore[arg-type]
        value = getattr(record, entry.name)
        if isinstance(value, Tensor):
            changed[entry.name] = change(value)
        elif is_dataclass(value) and not isinstance(value, type):
            changed[entry.name] = map_tensors(value, change)
    return replace(record, **changed)  # type: ignore[type-var]
