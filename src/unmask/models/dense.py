"""The Llama-shaped forward pass that all dense families share, from token ids to normed hidden states.

It reads top to bottom: attention, layer, trunk, first weights. It knows shapes, not checkpoints: `families/` maps each
official layout onto it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from unmask.models.attention import PreparedAttention, attend, prepare_attention
from unmask.models.freed import give_back_before
from unmask.models.kv_cache import KVCache
from unmask.models.layers import GatedMLP, RMSNorm, added
from unmask.models.linear import Linear
from unmask.models.moved import run_moved
from unmask.models.native.trunk import offer as offer_native
from unmask.models.packed import Offer, Shelf, can_be_packed
from unmask.models.packed_layer import Angles, offer
from unmask.models.recompute import run_layer, run_part
from unmask.models.rotary import Rotation
from unmask.models.shape import DenseShape
from unmask.models.wanted import Wanted
from unmask.types import AttentionSpec


class Attention(nn.Module):
    """Self-attention with rotary positions and shared key/value heads."""

    def __init__(self, shape: DenseShape, layer: int) -> None:
        super().__init__()
        self.layer, self.fused = layer, shape.fused_qkv
        self.head_width, self.heads = shape.head_width, (shape.heads, shape.kv_heads, shape.kv_heads)
        inner, kv_width = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        if self.fused:
            self.qkv_proj = Linear(shape.width, inner + 2 * kv_width, bias=shape.qkv_bias)
        else:
            self.q_proj = Linear(shape.width, inner, bias=shape.qkv_bias)
            self.k_proj = Linear(shape.width, kv_width, bias=shape.qkv_bias)
            self.v_proj = Linear(shape.width, kv_width, bias=shape.qkv_bias)
        self.o_proj = Linear(inner, shape.width, bias=False)
        self.q_norm = RMSNorm(shape.head_width, shape.norm_eps) if shape.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(shape.head_width, shape.norm_eps) if shape.qk_norm else nn.Identity()

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        how: PreparedAttention,
        cache: KVCache | None,
        eager: bool,
    ) -> Tensor:
        """What the queries see, `[B, H, L, K]`, of what was `asked`; the output projection is still to come."""
        if cache is not None:
            keys, values = cache.write(self.layer, keys, values)
        return attend(queries, keys, values, how, eager=eager)

    def asked(self, x_BLD: Tensor, rotation: Rotation, wanted: Wanted | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each `[B, heads, L, K]`, rotated.

        `wanted`: where alone queries are.
        """
        q, k, v = self._project(x_BLD, wanted)
        of_queries = rotation if wanted is None else wanted.angles(rotation)
        q = of_queries.apply(self.q_norm(q).transpose(1, 2))
        return q, rotation.apply(self.k_norm(k).transpose(1, 2)), v.transpose(1, 2)

    def values(self, x_BLD: Tensor) -> Tensor:
        """Values alone, `[B, L, G, K]`."""
        heads = (*x_BLD.shape[:2], -1, self.head_width)
        if self.fused:
            return self.qkv_proj(x_BLD).view(heads).split(self.heads, dim=2)[2]
        return self.v_proj(x_BLD).view(heads)

    def _project(self, x_BLD: Tensor, wanted: Wanted | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, at some places only where `wanted` says so, keys and values, each `[B, L, heads, K]`."""
        heads = (*x_BLD.shape[:2], -1, self.head_width)
        if self.fused:
            q, k, v = self.qkv_proj(x_BLD).view(heads).split(self.heads, dim=2)
            return q if wanted is None else wanted.asking(q), k, v
        asking_BLD = x_BLD if wanted is None else wanted.asking(x_BLD)
        q = self.q_proj(asking_BLD).view(*asking_BLD.shape[:2], -1, self.head_width)
        return q, self.k_proj(x_BLD).view(heads), self.v_proj(x_BLD).view(heads)


class Layer(nn.Module):
    """Attention and MLP, each behind a norm and added to the stream."""

    def __init__(self, shape: DenseShape, layer: int, mlp: nn.Module) -> None:
        super().__init__()
        self.recompute: str | None = None
        self.attention_norm = RMSNorm(shape.width, shape.norm_eps)
        self.attention = Attention(shape, layer)
        self.mlp_norm = RMSNorm(shape.width, shape.norm_eps)
        self.mlp = mlp
        self.is_last = layer == shape.layers - 1
        self.copies = Shelf()

    def forward(
        self,
        x_BLD: Tensor,
        rotation: Rotation,
        how: PreparedAttention,
        cache: KVCache | None,
        eager: bool,
        wanted: Wanted | None = None,
    ) -> Tensor:
        """The stream after this layer; where `wanted` says so, at these places only, n rows in all."""
        copies = self.copies.fitting(x_BLD)
        ask, answer = (None, None) if copies is None else (copies.ask, copies.answer)
        look = partial(self._look, ask or self._asked)
        seen_BHLK = run_part(self, self.recompute, look, x_BLD, rotation, how, cache, eager, wanted)
        if wanted is not None:
            x_BLD, seen_BHLK = wanted.of(x_BLD), wanted.of_seen(seen_BHLK)
        return run_part(self, self.recompute, answer or self.answer, x_BLD, seen_BHLK)

    def _look(
        self,
        ask: Callable[..., tuple[Tensor, Tensor, Tensor]],
        x_BLD: Tensor,
        rotation: Rotation,
        how: PreparedAttention,
        cache: KVCache | None,
        eager: bool,
        wanted: Wanted | None,
    ) -> Tensor:
        if wanted is not None and not wanted.is_narrow:
            wanted = None
        return self.attention(*ask(x_BLD, rotation, wanted), how if wanted is None else wanted.sight(how), cache, eager)

    def _asked(self, x_BLD: Tensor, rotation: Rotation, wanted: Wanted | None) -> tuple[Tensor, Tensor, Tensor]:
        if wanted is None:
            return self.ask(x_BLD, rotation)
        return self.attention.asked(self.attention_norm(x_BLD), rotation, wanted)

    def ask(self, x_BLD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """What comes before attention; see `Attention.asked`. Together with `answer`, what `compiling` compiles."""
        return self.attention.asked(self.attention_norm(x_BLD), rotation)

    def answer(self, x_BLD: Tensor, seen_BHLK: Tensor) -> Tensor:
        """What comes after attention."""
        x_BLD = added(x_BLD, self.attention.o_proj(seen_BHLK.transpose(1, 2).flatten(2)))
        return added(x_BLD, self.mlp(self.mlp_norm(x_BLD)))

    def offers(self) -> list[Offer]:
        """Copies of its weights that make its parts faster."""
        return offer(self, self.copies)


class DenseTrunk(nn.Module):
    """Embedding, layers, final norm. The head is the shell's.

    Attributes:
        is_native: where the layers are small, their copy is one call of C++ that is compiled here.
    """

    def __init__(self, shape: DenseShape) -> None:
        super().__init__()
        self.shape = shape
        self.recompute: str | None = None
        self.eager_attention = False
        self.captures = False
        self.angles, self.native = Shelf(), Shelf()
        self.is_native = False
        self.embed = nn.Embedding(shape.vocab_size, shape.width)
        self.layers = nn.ModuleList(Layer(shape, index, self.mlp_of(index)) for index in range(shape.layers))
        self.norm = RMSNorm(shape.width, shape.norm_eps)

    def mlp_of(self, layer: int) -> nn.Module:
        """What follows the attention of a layer."""
        del layer
        return GatedMLP(self.shape.width, self.shape.mlp_width)

    def forward(
        self,
        tokens_BL: Tensor,
        *,
        attention: AttentionSpec | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Hidden states `[B, L, D]` of int64 ids `[B, L]`; see `types.Denoiser` for the rest.

        `at`: int64 flat positions; then `[n, D]` there, the last layer computing the others only as far as these see
        them.
        """
        if self.captures:  # what the last forward left in a captured graph's buffers is no longer needed
            torch.compiler.cudagraph_mark_step_begin()
        rows, start = tokens_BL.shape[1], cache.start if cache else 0
        columns_BW = cache.columns_BW if cache else None
        device = tokens_BL.device
        keys = cache.seen(rows) if cache else rows
        how = prepare_attention(attention, start=start, queries=rows, keys=keys, device=device, columns=columns_BW)
        native = None if self.eager_attention else self.native.fitting(self.embed.weight)
        if native is not None and native.fits(tokens_BL, how, cache):
            rotation = self._rotation(columns_BW if positions is None else positions, start, rows, self.embed.weight)
            hidden = native(tokens_BL, rotation, how, cache, at)
            if cache is not None:
                cache.advance(rows)
            return hidden
        x_BLD = self.embed(tokens_BL)
        give_back_before(self.embed.weight, x_BLD)
        if self.shape.embedding_scale != 1.0:
            x_BLD = x_BLD * self.shape.embedding_scale
        rotation = self._rotation(columns_BW if positions is None else positions, start, rows, x_BLD)
        in_part = cache is not None and cache.share is not None
        wanted = None if at is None else Wanted.among(at, *tokens_BL.shape, can_part=how.can_part and not in_part)
        for index, layer in enumerate(self.layers):
            if cache is not None and in_part:
                x_BLD = run_moved(layer, index, x_BLD, rotation, how, cache, self.eager_attention)
                continue
            only = wanted if index == len(self.layers) - 1 else None
            x_BLD = run_layer(layer, self.recompute, index, x_BLD, rotation, how, cache, self.eager_attention, only)
        if in_part and wanted is not None:
            x_BLD = wanted.of(x_BLD)
        if cache is not None:
            cache.advance(rows)
        return self.norm(x_BLD if at is None else x_BLD.flatten(0, 1))

    def _rotation(self, positions: Tensor | None, start: int, rows: int, like: Tensor) -> Rotation:
        """The angles of the positions; None: of so many from `start` on. They are for what is computed `like` this."""
        shape = self.shape

        def make() -> Rotation:
            at = torch.arange(start, start + rows, device=like.device) if positions is None else positions
            return Rotation.at(at, width=shape.rotary_width, theta=shape.rope_theta, scaling=shape.rope_scaling)

        angles = self.angles.fitting(like) if positions is None else None
        return make() if angles is None else angles.at(start, rows, make)

    def offers(self) -> list[Offer]:
        """Angles that are kept; the layers as one call, where they were compiled and are small."""
        weight = self.embed.weight
        angles = [Offer(self.angles, (), partial(Angles, weight.dtype))] if can_be_packed([weight]) else []
        return [*angles, *(offer_native(self, self.native) if self.is_native else [])]

    def recompute_activations(self, strategy: str | None) -> None:
        """Compute activations again in the backward pass, by one of `recompute.STRATEGIES`; None: keep all."""
        self.recompute = strategy
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.recompute = strategy

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """Empty storage for `batch` rows of at most `capacity` positions, in the model's type and on its device."""
        shape, weight = self.shape, self.embed.weight
        size = (batch, shape.kv_heads, capacity, shape.head_width)
        return KVCache(layers=shape.layers, shape_BGLK=size, dtype=weight.dtype, device=weight.device)

    def initialise(self, head: nn.Linear | None, generator: torch.Generator | None = None) -> None:
        """Fill the network, and the head where it has weights of its own, with first weights: see below."""
        initialise(self, head, generator)


@torch.no_grad()
def initialise(trunk: DenseTrunk, head: nn.Linear | None, generator: torch.Generator | None = None) -> None:
    """Fill a network with its first weights, as the official LLaDA code does (inherited from OLMo).

    In `mitchell`, the output projections of layer i are scaled down by sqrt(2 (i + 1)). `flat` is transformers' rule
    for Llama and its kin: the same standard deviation everywhere.
    """
    shape = trunk.shape
    fill = _Filler(shape, generator)
    embedding_factor = 0.5 * math.sqrt(shape.width) if shape.logit_scale != 1.0 else 1.0
    fill(trunk.embed.weight, "embedding", factor=embedding_factor)
    for index, layer in enumerate(trunk.layers):
        assert isinstance(layer, Layer) and isinstance(layer.mlp, GatedMLP)
        attention, mlp = layer.attention, layer.mlp
        for inward in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            fill(inward.weight, "in")
        fill(attention.o_proj.weight, "out", depth=index)
        fill(mlp.down_proj.weight, "out", depth=index, fan_in=shape.mlp_width)
    for module in trunk.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
        if isinstance(module, RMSNorm):
            module.weight.fill_(1.0)
    if head is not None:
        fill(head.weight, "head")


@dataclass(frozen=True)
class _Filler:
    shape: DenseShape
    generator: torch.Generator | None

    def __call__(
        self, weight: Tensor, place: str, *, factor: float = 1.0, depth: int | None = None, fan_in: int = 0
    ) -> None:
        shape, std, cutoff = self.shape, 0.0, self.shape.init_cutoff
        fan_in = fan_in or shape.width
        if shape.init_fn == "mitchell":
            std, cutoff = factor / math.sqrt(fan_in), 3.0
            if depth is not None:
                std /= math.sqrt(2 * (depth + 1))
        elif shape.init_fn == "normal":
            std = shape.init_std * factor
            if depth is not None:
                std /= math.sqrt(2 * shape.layers)
        elif shape.init_fn == "flat":
            std = shape.init_std
        elif shape.init_fn == "full_megatron":
            std, cutoff = shape.init_std, cutoff or 3.0
            if place == "out":
                std /= math.sqrt(2 * shape.layers)
            elif place == "head":
                std = shape.width**-0.5
        elif shape.init_fn == "fan_in":
            std, cutoff = factor / math.sqrt(fan_in), None
        else:
            std, cutoff = math.sqrt(2.0 / weight.shape[1]), None
        if cutoff is None:
            weight.normal_(0.0, std, generator=self.generator)
        else:
            nn.init.trunc_normal_(weight, 0.0, std, -cutoff * std, cutoff * std, generator=self.generator)
