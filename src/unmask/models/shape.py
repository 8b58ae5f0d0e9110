"""The shape of a dense network: all that a checkpoint's configuration decides about it.

`families/` make one out of each official configuration. Knows neither a configuration nor the network itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unmask.models.rotary import RopeScaling

Initialisation = Literal["mitchell", "normal", "full_megatron", "fan_in", "kaiming_normal", "flat"]


@dataclass(frozen=True)
class DenseShape:
    """Everything about a dense network that changes its forward pass or its first weights.

    Attributes:
        vocab_size: rows of the embedding and of the head, V.
        width: D. layers: number of them. heads: H. kv_heads: G. mlp_width: inner width of the gated MLP.
        tied: the head is the embedding.
        head_dim: width of a head where that is not D / H.
        rope_theta, rope_scaling: base of the rotary angles, and how they are slowed down.
        rotary_share: how much of a head, from its start, is rotated.
        window: a token sees as many tokens, itself included, and those behind it not; None: all.
        qkv_bias: query, key and value projections have biases.
        qk_norm: the heads of queries and keys are normed before they are rotated.
        fused_qkv: one projection gives all queries, then all keys, then all values.
        embedding_scale, logit_scale: factors on the embeddings and on the logits.
        init_fn, init_std, init_cutoff: rule for the first weights, its scale, where to cut its tails (in stds).
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp_width: int
    max_length: int
    norm_eps: float = 1e-5
    head_dim: int | None = None
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rotary_share: float = 1.0
    window: int | None = None
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    fused_qkv: bool = False
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    init_fn: Initialisation = "mitchell"
    init_std: float = 0.02
    init_cutoff: float | None = None

    @property
    def head_width(self) -> int:
        """K."""
        return self.width // self.heads if self.head_dim is None else self.head_dim

    @property
    def rotary_width(self) -> int:
        """How many of a head's K numbers are rotated."""
        return int(self.head_width * self.rotary_share)
