"""The layers of a small dense network, and the norm after them, as one call of `trunk.cpp`: a copy of their weights.

In use while it is held, as other copies are (`packed.py`). It takes what decoding asks for: everybody sees everybody,
or a mask says who; keys and values stored or not; all places, or those that are wanted.
"""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unmask.models.attention import PreparedAttention
from unmask.models.kv_cache import KVCache
from unmask.models.layers import GatedMLP, RMSNorm
from unmask.models.native.library import MOST, Call, Network, layers_of, library, pointer
from unmask.models.packed import Offer, Shelf, Source, are_current, can_be_packed
from unmask.models.packed_layer import are_plain, inward, is_plain
from unmask.models.rotary import Rotation

# bytes that stay near the processor from one step to the next
_NEAR = 2**20


class NativeTrunk:
    """Weights as `trunk.cpp` reads them."""

    def __init__(self, trunk: Any) -> None:
        native = library()
        assert native is not None
        self._forward, self._tile, self._lanes = native.forward, native.tile(), native.lanes()
        self.dtype, self.made_of = torch.float32, list[Source]()
        self._weights = [self._layer(layer) for layer in trunk.layers]
        self._is_near = all(_size(layer) <= _NEAR for layer in trunk.layers)
        self._layers, self._last = layers_of(self._weights), self._noted(trunk.norm, "weight")
        self._embedding = self._noted(trunk.embed, "weight")
        self._first = _first_asked(trunk)
        shape = trunk.shape
        self._width, self._heads, self._head = shape.width, (shape.kv_heads, shape.head_width), shape.head_width
        self._network = Network(
            layers=shape.layers,
            width=shape.width,
            heads=shape.heads,
            key_heads=shape.kv_heads,
            head_width=shape.head_width,
            mlp_width=shape.mlp_width,
            eps=shape.norm_eps,
            layer=ctypes.cast(self._layers, type(Network().layer)),
            last_norm=pointer(self._last),
            embedding=pointer(self._embedding),
            words=len(self._embedding),
            embedding_scale=shape.embedding_scale,
            first=pointer(self._first),
        )

    def is_current(self) -> bool:
        """See `packed.Copy`."""
        return are_current(self.made_of)

    def fits(self, tokens_BL: Tensor, how: PreparedAttention, cache: KVCache | None) -> bool:
        """Whether it computes this: enough positions to fill its lanes, of a pattern that it knows."""
        # what it leaves out: a causal pattern without mask, tiles, packed documents; a share of the columns; drift
        plain = how.can_part and (cache is None or (cache.share is None and cache.watched_BW is None))
        is_here = tokens_BL.device.type == "cpu" and tokens_BL.numel() > 0
        # a row is for one thread; PyTorch divides products, which pays where they are larger
        is_shared = self._is_near or tokens_BL.shape[0] >= torch.get_num_threads()
        return plain and is_here and is_shared and 2 * tokens_BL.shape[1] >= self._lanes

    def __call__(
        self, tokens_BL: Tensor, rotation: Rotation, how: PreparedAttention, cache: KVCache | None, at_n: Tensor | None
    ) -> Tensor:
        """Normed hidden states `[B, L, D]`, or `[n, D]` of flat places; keys and values are stored.

        Raises:
            IndexError: an id has no row in the embedding.
        """
        rows, length = tokens_BL.shape
        used: list[Tensor | None] = [tokens_BL.contiguous(), rotation.cos.contiguous(), rotation.sin.contiguous()]
        call = Call(rows=rows, length=length, threads=torch.get_num_threads())
        call.tokens, call.cos, call.sin = map(pointer, used)
        call.angles_of_row = 0 if rotation.cos.shape[0] == 1 else length * self._head
        used += self._stored(call, rows, length, cache)
        used += self._masked(call, how.mask, rows)
        shape = (rows, length, self._width) if at_n is None else (at_n.shape[0], self._width)
        hidden = torch.empty(shape)
        if at_n is not None:
            # no address would mean all places, and what is empty has none
            used.append(at_n := at_n.contiguous() if shape[0] else torch.zeros(1, dtype=torch.int64))
            call.wanted, call.wanted_count = pointer(at_n), shape[0]
        call.hidden = pointer(hidden)
        if not self._forward(self._network, call):
            raise IndexError(f"a token id is not among 0 to {len(self._embedding) - 1}, those that the model knows")
        return hidden

    def _stored(self, call: Call, rows: int, length: int, cache: KVCache | None) -> list[Tensor | None]:
        """Tell where keys and values are; returns what must stay alive."""
        if cache is None:
            # each layer's in the place of the one's before
            both = torch.empty(2, rows, self._heads[0], length, self._heads[1])
            keys, values, call.seen = both[0], both[1], length
        else:
            keys, values, call.seen = cache.keys, cache.values, cache.seen(length)
            call.of_layer, call.start = keys.stride(0), cache.start
            cache.check(length)
        call.keys, call.values = pointer(keys), pointer(values)
        call.of_row, call.of_head = keys.stride(-4), keys.stride(-3)
        row = None if cache is None or cache.rows is None else cache.rows.contiguous()
        column = None if cache is None or cache.columns_BW is None else cache.columns_BW.contiguous()
        call.row, call.column = pointer(row), pointer(column)
        return [keys, values, row, column]

    def _masked(self, call: Call, mask: Tensor | None, rows: int) -> list[Tensor | None]:
        if mask is None:
            return []
        mask = mask[:, 0].contiguous()
        call.mask = pointer(mask)
        call.mask_of_row = mask.stride(0) if len(mask) == rows > 1 else 0
        call.mask_of_query = mask.stride(1) if mask.shape[1] > 1 else 0
        return [mask]

    def _layer(self, layer: Any) -> dict[str, Tensor | None]:
        attention, mlp = layer.attention, layer.mlp
        weights = [self._noted(linear, "weight") for linear in inward(attention)]
        biases = [self._noted(linear, "bias") for linear in inward(attention)]
        if attention.fused:
            sizes = [heads * attention.head_width for heads in attention.heads]
            weights = weights[0].split(sizes)
            biases = [None] * 3 if biases[0] is None else list(biases[0].split(sizes))
        queries, keys, values = (self._packed(weight) for weight in weights)
        gate, up = (self._noted(linear, "weight") for linear in (mlp.gate_proj, mlp.up_proj))
        return {
            "attention_norm": self._noted(layer.attention_norm, "weight"),
            "queries": queries,
            "keys": keys,
            "values": values,
            **{f"{name}_bias": bias for name, bias in zip(("queries", "keys", "values"), biases, strict=True)},
            "query_norm": self._noted(attention.q_norm, "weight"),
            "key_norm": self._noted(attention.k_norm, "weight"),
            "seen": self._packed(self._noted(attention.o_proj, "weight")),
            "mlp_norm": self._noted(layer.mlp_norm, "weight"),
            "gate_up": self._packed(gate, up),
            "down": self._packed(self._noted(mlp.down_proj, "weight")),
        }

    def _noted(self, module: nn.Module, name: str) -> Any:
        """A parameter, whose changes matter from now on; None: the module has none of that name."""
        parameter = module._parameters.get(name)
        if parameter is None:
            return None
        self.made_of.append(Source.of(module, name))
        return parameter.detach().contiguous()

    def _packed(self, *weights: Tensor) -> Tensor:
        """The rows of one or two weights in turn, so many side by side as a tile has: `[tiles, K, tile]`."""
        each = self._tile // len(weights)
        padded = [nn.functional.pad(weight, (0, 0, 0, -len(weight) % each)) for weight in weights]
        return torch.cat([weight.unflatten(0, (-1, each)) for weight in padded], 1).transpose(1, 2).contiguous()


def _first_asked(trunk: Any) -> Tensor | None:
    """Queries, keys and values of each token in the first layer, which does not yet know places or neighbours: side by
    side, float32 `[V, heads * K]`. None: there are many tokens, and to fetch theirs takes as long as to compute them.
    """
    layer, (words, width) = trunk.layers[0], trunk.embed.weight.shape
    linears = inward(layer.attention)
    if words * sum(linear.out_features for linear in linears) * 4 > _NEAR:
        return None
    norm, x_VD = layer.attention_norm, _exact(trunk.embed.weight) * trunk.shape.embedding_scale
    x_VD = nn.functional.rms_norm(x_VD, (width,), _exact(norm.weight), norm.eps)
    parts = [nn.functional.linear(x_VD, _exact(linear.weight), _exact(linear.bias)) for linear in linears]
    return torch.cat(parts, -1).float().contiguous()


def _exact(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().double()


def offer(trunk: Any, shelf: Shelf) -> list[Offer]:
    """The copy of a `dense.DenseTrunk`, as far as this is small and as it was made: no adapter, no hook."""
    if not (_is_known(trunk) and all(_is_small(layer) for layer in trunk.layers)) or library() is None:
        return []
    linears = tuple(linear for layer in trunk.layers for linear in _linears(layer))
    return [Offer(shelf, linears, partial(NativeTrunk, trunk), is_slow=True)]


def _is_known(trunk: Any) -> bool:
    """Whether what is before and behind the layers is as `trunk.cpp` has it."""
    embed, norm, shape = trunk.embed, trunk.norm, trunk.shape
    is_table = type(embed) is nn.Embedding and is_plain(embed) and embed.max_norm is None
    return (
        is_table
        and can_be_packed([embed.weight])
        and type(norm) is RMSNorm
        and is_plain(norm)
        and shape.rotary_width == shape.head_width
    )


def _linears(layer: Any) -> list[Any]:
    mlp = layer.mlp
    return [*inward(layer.attention), layer.attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _is_small(layer: Any) -> bool:
    """Whether it can be copied, and the copy will be the faster one."""
    mlp, attention = layer.mlp, layer.attention
    if not (type(mlp) is GatedMLP and is_plain(mlp) and is_plain(layer) and is_plain(attention)):
        return False
    linears, of_heads = (
        _linears(layer),
        [norm for norm in (attention.q_norm, attention.k_norm) if isinstance(norm, RMSNorm)],
    )
    return (
        are_plain(linears, [layer.attention_norm, layer.mlp_norm, *of_heads])
        and linears[0].weight.dtype == torch.float32
        and attention.head_width % 2 == 0
        and _size(layer) <= MOST
    )


def _size(layer: Any) -> int:
    """Bytes of its products' weights."""
    return sum(linear.weight.numel() * linear.weight.element_size() for linear in _linears(layer))
