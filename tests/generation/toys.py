"""Small denoisers whose answers are known or cheap, and a record of what they were asked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.strategy import Step, Transfer
from unmask.types import AttentionSpec, DenoiserOutput


class Recorder:
    """Answers from `logits_BLV` at the positions asked for, and remembers every call."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.asked: list[int] = []
        self.tokens: list[Tensor] = []
        self.attention: list[AttentionSpec | None] = []

    def logits_BLV(self, tokens_BL: Tensor, is_valid_BL: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(
        self,
        tokens_BL: Tensor,
        *,
        attention: AttentionSpec | None = None,
        logits_at: Tensor | None = None,
        **rest: Any,
    ) -> DenoiserOutput:
        assert logits_at is not None and logits_at.dtype == torch.int64
        self.shapes.append(tuple(tokens_BL.shape))
        self.asked.append(len(logits_at))
        self.tokens.append(tokens_BL)
        self.attention.append(attention)
        document_BL = attention.document_BL if attention is not None else None
        is_valid_BL = torch.ones_like(tokens_BL, dtype=torch.bool) if document_BL is None else document_BL >= 0
        logits_BLV = self.logits_BLV(tokens_BL, is_valid_BL)
        return DenoiserOutput(logits=logits_BLV.flatten(0, 1)[logits_at])


class Contextual(Recorder):
    """Random logits that depend on the position, its two neighbours and every visible token of the row (float64)."""

    def __init__(self, vocab_size: int = 16, seed: int = 0, longest: int = 64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        self.token, self.left, self.right = (draw(vocab_size, vocab_size) for _ in range(3))
        self.place = draw(longest, vocab_size)

    def logits_BLV(self, tokens_BL: Tensor, is_valid_BL: Tensor) -> Tensor:
        seen_BLV = self.token[tokens_BL] * is_valid_BL[..., None]
        left_BLV = (self.left[tokens_BL] * is_valid_BL[..., None]).roll(1, 1)
        right_BLV = (self.right[tokens_BL] * is_valid_BL[..., None]).roll(-1, 1)
        left_BLV[:, 0], right_BLV[:, -1] = 0, 0
        return seen_BLV.sum(1, keepdim=True) + left_BLV + right_BLV + self.place[: tokens_BL.shape[1]]


class Scripted(Recorder):
    """At position p wants token `script[p]`, the more surely the larger `strength[p]`; the context plays no part."""

    def __init__(self, script: list[int], strength: list[float], vocab_size: int = 16) -> None:
        super().__init__()
        self.table_LV = torch.zeros(len(script), vocab_size)
        for place, (token, height) in enumerate(zip(script, strength, strict=True)):
            self.table_LV[place, token] = height

    def logits_BLV(self, tokens_BL: Tensor, is_valid_BL: Tensor) -> Tensor:
        return self.table_LV[: tokens_BL.shape[1]].expand(len(tokens_BL), -1, -1)


class Idle:
    """A strategy that breaks its promise: it never commits."""

    def __init__(self, options: GenerationOptions) -> None:
        del options

    def init(self, rows: int) -> None:
        del rows

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: None) -> Transfer:
        return Transfer(torch.zeros_like(proposal.pending_BL))
