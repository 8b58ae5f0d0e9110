"""What a forward and backward pass has to compute, by the shapes of the network and the batch.

That is the least that does the job: padding, activations computed again and pairs that a kernel computes in vain are
left out. Knows no time and no device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from unmask.diffusion.pairs import attended_pairs
from unmask.models.moe import SparseShape
from unmask.objectives.autoregressive import NextTokens
from unmask.types import AttentionSpec, Batch


@dataclass(frozen=True)
class Work:
    """Of one batch.

    Attributes:
        positions: of the rows, padding included. tokens: fed, in all copies and streams, without padding.
        predicted: positions at which the head runs. pairs: of a query and a key that it sees.
    """

    positions: int = 0
    tokens: int = 0
    predicted: int = 0
    pairs: int = 0


def work_of(batch: Batch, noise: Any) -> Work:
    """The work in a batch, noised; on the CPU, from ids alone."""
    if isinstance(noise, NextTokens):
        fed_BL, spec = batch.x0_BL, replace(batch.attention or AttentionSpec(), kind="causal")
    else:
        fed_BL, spec = noise.xt_BL, noise.attention
    document_BL = None if spec is None else spec.document_BL
    tokens = fed_BL.numel() if document_BL is None else int((document_BL >= 0).sum())
    return Work(batch.x0_BL.numel(), tokens, len(noise.targets), attended_pairs(spec, *fed_BL.shape))


@dataclass(frozen=True)
class Cost:
    """Floating-point operations, forward and backward, of a network.

    Attributes:
        token: in the trunk, attention left out. prediction: in the head, and in what the last layer computes for
            predicted positions alone. pair: in the attention of all layers.
    """

    token: float
    prediction: float
    pair: float

    def of(self, work: Work) -> float:
        """Operations of one batch."""
        return self.token * work.tokens + self.prediction * work.predicted + self.pair * work.pairs


def cost_of(model: Any) -> Cost:
    """Count a `DiffusionModel`, with or without an adapter, before it is divided over processes.

    A weight costs two operations per token forward, two for the gradient of its input, and two for its own where it
    is trained. Of the experts those count that a token goes through.
    """
    shape, trunk = model.facts.shape, model.trunk
    share = shape.active / shape.experts if isinstance(shape, SparseShape) else 1.0
    # a shifted row predicts its neighbour, so that all of them are computed to the end
    last = trunk.layers[-1]
    late = [] if model.family.shift else [*last.attention.o_proj.parameters(), *last.mlp.parameters()]
    elsewhere = {id(weight) for weight in (trunk.embed.weight, *late)}

    def operations(weights: Iterable[nn.Parameter]) -> float:
        matrices = [weight for weight in weights if weight.dim() >= 2]
        return sum(_operations(weight) * (share if weight.dim() == 3 else 1.0) for weight in matrices)

    token = operations(weight for weight in trunk.parameters() if id(weight) not in elsewhere)
    # queries with keys, and their weights with values
    pair = 2 * 2 * 3 * shape.heads * shape.head_width * shape.layers
    return Cost(token, operations([*model.head.parameters(), *late]), pair)


def _operations(weight: nn.Parameter) -> int:
    stored = getattr(weight, "quant_state", None)  # of bitsandbytes: two weights in one number
    count = weight.numel() if stored is None else stored.shape.numel()
    return (6 if weight.requires_grad else 4) * count
