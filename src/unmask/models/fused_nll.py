"""The head, and the likelihood of targets under it, without the logits ever being there.

Vocabulary and positions are cut into tiles that fit a processor's cache. The forward pass keeps each position's
log-sum-exp, the backward pass computes a tile again, turns it in place into the cross-entropy's gradient and multiplies
it with hidden states and weights while it is at hand: the gradient of a slice of the weights is finished at once and
written once. Nothing here knows what the likelihoods are for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from unmask.models.freed import give_back_before
from unmask.models.linear import Linear, linear, summed_product

# numbers in a tile, and about how many positions: a processor's should stay in its cache, others want large products
TILE_CPU, TILE_ELSEWHERE = (2**21, 1024), (2**26, 8192)


LOG2_E = math.log2(math.e)


class Head(Linear):
    """From hidden states to logits, or to the negative log-likelihood of targets."""

    def forward(self, input: Tensor, targets: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """Logits `[..., V]` of `[..., D]`; of `[n, D]` and int64 targets `[n]`, `token_nll` instead."""
        return super().forward(input) if targets is None else token_nll(input, self.weight, targets, scale)


def token_nll(hidden_nD: Tensor, weight_VD: Tensor, targets: Tensor, scale: float = 1.0) -> Tensor:
    """Cross-entropy of int64 targets `[n]` under `scale * hidden @ weight.T`, float32 `[n]`, in nats.

    Products are in the type of the hidden states, or in autocast's; the rest is in float32 at least.
    """
    if type(weight_VD) not in (Tensor, nn.Parameter, FakeTensor) or torch.compiler.is_compiling():
        # a tensor of another class (sharded, quantised) has products of its own
        logits_nV = F.linear(hidden_nD, weight_VD) * scale
        return F.cross_entropy(logits_nV.float(), targets, reduction="none")
    device = hidden_nD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_nD.dtype
    with torch.autocast(device, enabled=False):
        nll_n = _TokenNll.apply(hidden_nD, weight_VD, targets, scale, dtype)
    give_back_before(weight_VD, nll_n)
    return nll_n


@dataclass(frozen=True)
class _Tiles:
    """Tiles of `scale * hidden @ weight.T`; products in `dtype`, what is summed in `exact`."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    scale: float
    dtype: torch.dtype

    @property
    def exact(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    def rows(self) -> list[slice]:
        """As equal as can be: a few rows by themselves would cost nearly as much as a whole tile."""
        count = max(1, self.hidden.shape[0])
        size = math.ceil(count / max(1, round(count / _size(self.hidden)[1])))
        return [slice(start, start + size) for start in range(0, count, size)]

    def words(self) -> Iterator[tuple[slice, Tensor]]:
        """Slices of the vocabulary, and their weights."""
        numbers, rows = _size(self.hidden)[0], self.rows()[0].stop
        # neither the logits of a tile nor its weights should be more numbers
        size = max(1, numbers // max(rows, self.weight.shape[1]))
        for start in range(0, self.weight.shape[0], size):
            which = slice(start, start + size)
            yield which, self.weight[which].to(self.dtype)

    def logits(self, rows: slice, weight: Tensor) -> Tensor:
        """In `exact`, and nobody else's."""
        tile = linear(self.hidden[rows].to(self.dtype), weight).to(self.exact)
        return tile if self.scale == 1.0 else tile.mul_(self.scale)

    def place(self, rows: slice, words: slice, width: int) -> tuple[Tensor, Tensor]:
        """Column of each row's target in a tile, `[rows, 1]`, and whether it is in this one: no waiting for a GPU."""
        column = (self.targets[rows] - words.start).unsqueeze(1)
        return column.clamp(0, width - 1), (column >= 0) & (column < width)


def _exponential_of_difference(tile: Tensor, row: Tensor) -> Tensor:
    """exp(tile - row), in the tile's place; powers of two, since PyTorch's `exp` is MKL's, slow but on Intel."""
    return torch.add(row * -LOG2_E, tile, alpha=LOG2_E, out=tile).exp2_()


def _size(hidden: Tensor) -> tuple[int, int]:
    return TILE_CPU if hidden.device.type == "cpu" else TILE_ELSEWHERE


class _TokenNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        tiles = _Tiles(hidden, weight, targets, scale, dtype)
        wanted = torch.zeros(hidden.shape[0], dtype=tiles.exact, device=hidden.device)
        parts: list[list[Tensor]] = [[] for _ in tiles.rows()]
        for words, some in tiles.words():
            for part, rows in zip(parts, tiles.rows(), strict=True):
                tile = tiles.logits(rows, some)
                column, here = tiles.place(rows, words, some.shape[0])
                wanted[rows] += tile.gather(1, column).where(here, 0).squeeze(1)
                most = tile.amax(1, keepdim=True)
                # in place: torch.logsumexp would make another tile
                part.append(most.squeeze(1) + _exponential_of_difference(tile, most).sum(1).log())
        whole = [torch.stack(part).logsumexp(0) for part in parts]
        lse = torch.cat(whole)
        ctx.save_for_backward(hidden, weight, targets, lse)
        ctx.scale, ctx.dtype = scale, dtype
        return (lse - wanted).float()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, targets, lse = ctx.saved_tensors
        tiles = _Tiles(hidden, weight, targets, ctx.scale, ctx.dtype)
        factor = (gradients[0].to(tiles.exact) * ctx.scale).unsqueeze(1)
        of_hidden = torch.zeros_like(hidden, dtype=tiles.exact) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for words, some in tiles.words():
            slope = torch.zeros((), dtype=tiles.dtype, device=hidden.device)
            for number, rows in enumerate(tiles.rows()):
                tile = _exponential_of_difference(tiles.logits(rows, some), lse[rows, None])
                column, here = tiles.place(rows, words, some.shape[0])
                tile = tile.scatter_add_(1, column, -here.to(tile.dtype)).mul_(factor[rows]).to(tiles.dtype)
                if of_hidden is not None:
                    of_hidden[rows] += linear(tile, some.t())
                if of_weight is not None:
                    part = summed_product(tile, hidden[rows].to(tiles.dtype))
                    slope = slope.to(tiles.exact) + part if number else part
            if of_weight is not None:
                of_weight[words] = slope
        return of_hidden if of_hidden is None else of_hidden.to(hidden.dtype), of_weight, None, None, None
