"""Let what was predicted before count: credit that a token earned in earlier steps (CreditDecoding, arXiv:2510.06133).

At each step the best token of each mask earns its probability to the power of `credit_power`, and all credit earned
before shrinks to a share `credit_decay`. Tokens are chosen, and judged, by logits + `credit_weight` * log(1 + credit);
those that are then probable enough are written, and always the best one. Credit is forgotten where a block begins:
programs in use keep it until no mask is left anywhere, so that it passes from one request to the next.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.strategies.memory import Memory, pending_places
from unmask.generation.strategies.threshold import Threshold
from unmask.generation.strategy import Step


class Credit(Threshold):
    """What is at least `threshold` probable, steady predictions counting for more (CreditDecoding)."""

    paper = "arXiv:2510.06133"
    knobs = "threshold, credit_weight, credit_power, credit_decay, score, commit_at_least"

    def __init__(self, options: GenerationOptions) -> None:
        super().__init__(options)
        self.weight, self.power, self.decay = options.credit_weight, options.credit_power, options.credit_decay

    def init(self, rows: int) -> Memory:
        """The credit of every token at each position of the block."""
        return Memory(rows)

    def adjusted(
        self, logits_nV: Float[Tensor, "n V"], pending_BL: Bool[Tensor, "B L"], canvas: Canvas, step: Step, state: Any
    ) -> Float[Tensor, "n V"]:
        """See `DecodingStrategy`."""
        index_n, row_n, offset_n = pending_places(pending_BL, len(logits_nV), canvas, step)
        credit_RWV = state.room("credit", logits_nV[:, None].expand(-1, step.block_size, -1))
        begins_n = (step.within_B == 0)[index_n // pending_BL.shape[1]]
        credit_nV = (credit_RWV[row_n, offset_n] * self.decay).masked_fill(begins_n[:, None], 0.0)
        best_n = logits_nV.softmax(-1).max(-1)
        credit_nV = credit_nV.scatter_add(1, best_n.indices[:, None], best_n.values.pow(self.power)[:, None])
        credit_RWV[row_n, offset_n] = credit_nV
        return logits_nV + self.weight * credit_nV.log1p()
