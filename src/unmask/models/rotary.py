"""Rotary positions: how fast each pair of a head turns, how it is slowed down for long texts, and the turning itself.

Knows no checkpoint: `families/rope.py` reads what a configuration says of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class RopeScaling:
    """Slower angles, for texts longer than those trained on.

    Attributes:
        kind: `linear` slows every angle down by `factor` (arXiv 2306.15595); `llama3` only those that turn less than
            `low` times in `original_length` positions, leaves those that turn more than `high` times, and goes from
            one to the other in between (arXiv 2407.21783, and the code published with Llama 3.1); `yarn` the same, but
            in between it goes evenly from pair to pair (arXiv 2309.00071); `longrope` each pair by a factor of its
            own, out of `short`, or out of `long` where a row is longer than `original_length` (arXiv 2402.13753).
        whole_pairs: in `yarn`, the first and the last pair in between are whole numbers.
        amplitude: what cosines and sines are multiplied by, so that distant tokens weigh more.
    """

    kind: Literal["linear", "llama3", "yarn", "longrope"]
    factor: float
    low: float = 1.0
    high: float = 4.0
    original_length: int = 8192
    whole_pairs: bool = True
    amplitude: float = 1.0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()


def rotary_frequencies(
    width: int, theta: float, scaling: RopeScaling | None, device: torch.device, *, beyond: bool = False
) -> Tensor:
    """Radians per position of each pair in a head of `width`, float32 `[width / 2]` (Su et al. 2021).

    `beyond`: for rows longer than the original length, which only `longrope` makes a difference for.
    """
    exponent = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    frequency = 1.0 / theta**exponent
    if scaling is None:
        return frequency
    if scaling.kind == "longrope":
        return frequency / torch.tensor(scaling.long if beyond else scaling.short, device=device)
    slow = frequency / scaling.factor
    if scaling.kind == "linear":
        return slow
    if scaling.kind == "yarn":
        kept = _kept_by_yarn(width, theta, scaling, device)
    else:
        turns = frequency * scaling.original_length / (2 * math.pi)
        kept = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0.0, 1.0)
    return (1 - kept) * slow + kept * frequency


def _kept_by_yarn(width: int, theta: float, scaling: RopeScaling, device: torch.device) -> Tensor:
    """How much of each pair's frequency is left as it is, `[width / 2]`: 1 for the first pairs, 0 for the last."""

    def pair_that_turns(times: float) -> float:
        return width * math.log(scaling.original_length / (2 * math.pi * times)) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.high), pair_that_turns(scaling.low)
    if scaling.whole_pairs:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    pair = torch.arange(width // 2, device=device, dtype=torch.float32)
    # 0.001: where both are one pair, published code goes down within a thousandth
    return 1 - ((pair - first) / (last - first or 0.001)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of the rotary angles, float32 `[B or 1, 1, L, K]`, or of the first part of K.

    The sines of the first half are negative: it is turned against the second. `spread` holds both as they are for so
    many heads side by side, `[B or 1, L, heads * K]`.
    """

    cos: Tensor
    sin: Tensor
    spread: dict[int, tuple[Tensor, ...]] = field(default_factory=dict, compare=False)

    @staticmethod
    def at(positions: Tensor, *, width: int, theta: float, scaling: RopeScaling | None = None) -> Rotation:
        """Angles of int64 positions `[L]` or `[B, L]` for heads of `width`."""
        frequency = rotary_frequencies(width, theta, scaling, positions.device)
        if scaling is not None and scaling.kind == "longrope":
            # row by row, unlike transformers: a row does not depend on its neighbours
            is_long = positions.amax(-1)[..., None, None] >= scaling.original_length
            beyond = rotary_frequencies(width, theta, scaling, positions.device, beyond=True)
            frequency = torch.where(is_long, beyond, frequency)
        angle = positions.float().unsqueeze(-1) * frequency
        shape = (-1, 1, positions.shape[-1], width)
        cos, sin = angle.cos(), angle.sin()
        cos, sin = torch.cat((cos, cos), dim=-1).view(shape), torch.cat((-sin, sin), dim=-1).view(shape)
        if scaling is not None and scaling.amplitude != 1.0:
            cos, sin = cos * scaling.amplitude, sin * scaling.amplitude
        return Rotation(cos, sin)

    def part(self, columns: slice) -> Rotation:
        """The angles of some of the positions."""
        return Rotation(self.cos[:, :, columns], self.sin[:, :, columns])

    def at_places(self, place_Bm: Tensor) -> Rotation:
        """The angles of other positions in each row."""
        if len(self.cos) == 1:
            shape, place_n = (len(place_Bm), 1, -1, self.cos.shape[-1]), place_Bm.flatten()
            cos, sin = (angle[0, 0].index_select(0, place_n).view(shape) for angle in (self.cos, self.sin))
            return Rotation(cos, sin)
        place_BmK = place_Bm[:, None, :, None].expand(-1, -1, -1, self.cos.shape[-1])
        cos, sin = (angle.expand(len(place_Bm), -1, -1, -1).gather(2, place_BmK) for angle in (self.cos, self.sin))
        return Rotation(cos, sin)

    def apply(self, x_BHLK: Tensor) -> Tensor:
        """Rotate in float32 and return the type that came in: low precision here shifts distant positions."""
        width = self.cos.shape[-1]
        x = x_BHLK[..., :width].float()
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((second, first), dim=-1)
        if torch.is_grad_enabled():
            rotated = x * self.cos + turned * self.sin
        else:
            rotated = turned.mul_(self.sin).add_(x * self.cos)
        rotated = rotated.to(x_BHLK.dtype)
        return rotated if width == x_BHLK.shape[-1] else torch.cat((rotated, x_BHLK[..., width:]), dim=-1)

    def apply_side_by_side(self, x_BLHK: Tensor) -> Tensor:
        """The same for heads that lie side by side, without gradient: the angles are repeated for them, and kept."""
        heads = x_BLHK.shape[2]
        if self.cos.shape[-1] != x_BLHK.shape[-1]:
            return self.apply(x_BLHK.transpose(1, 2)).transpose(1, 2)
        if heads not in self.spread:
            angles = (angle.transpose(1, 2).expand(-1, -1, heads, -1).flatten(2) for angle in (self.cos, self.sin))
            self.spread[heads] = tuple(angles)
        cos, sin = self.spread[heads]
        x = x_BLHK.float()
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((second, first), dim=-1).flatten(2)
        rotated = turned.mul_(sin).add_(x.flatten(2) * cos)
        return rotated.to(x_BLHK.dtype).view(x_BLHK.shape)
