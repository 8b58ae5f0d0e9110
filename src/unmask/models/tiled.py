"""Attention over a sparse pattern, a tile of queries at a time, each over the keys that any of its queries sees.

No mask over all pairs ever exists. On a CPU a tile is one call of the dense kernel; on a GPU the same tiles become the
block mask of flex_attention. What the pattern means is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.amp.autocast_mode import custom_bwd, custom_fwd
from torch.nn import functional as F

# queries of a tile: fewer waste less of the pattern's edges, more waste less time between kernels
TILE = 128
# a head's width below which flex_attention has no kernel for a GPU
_NARROW = 16

Pattern = Callable[[Tensor], Tensor | None]
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Tile:
    """Some queries, and all that they see.

    Attributes:
        rows: the queries' columns. keys: columns of the keys, a slice or int64 `[k]`.
        mask: bool `[B or 1, 1, rows, k]`; None: each of the queries sees each of the keys.
    """

    rows: slice
    keys: slice | Tensor
    mask: Tensor | None


def tiles_of(seen: Pattern, columns: Tensor) -> tuple[Tile, ...]:
    """Cut a pattern into tiles; on a GPU this waits for the device.

    Args:
        seen: which of all columns the queries at int64 columns `[1, q]` see, bool `[B or 1, q, L]`; at least one each.
        columns: int64 `[L]`; all of them.
    """
    return tuple(_tile(seen, columns, start) for start in range(0, len(columns), TILE))


def _tile(seen: Pattern, columns: Tensor, start: int) -> Tile:
    rows = slice(start, min(start + TILE, len(columns)))
    seen_BQK = seen(columns[rows][None])
    assert seen_BQK is not None, "a pattern of tiles hides something"
    if seen_BQK.shape[0] > 1 and bool((seen_BQK == seen_BQK[:1]).all()):
        seen_BQK = seen_BQK[:1]
    keys = seen_BQK.any(dim=1).any(dim=0).nonzero().squeeze(1)
    mask = seen_BQK[:, :, keys].unsqueeze(1)
    first, last = int(keys[0]), int(keys[-1])
    together = last - first + 1 == len(keys)
    return Tile(rows, slice(first, last + 1) if together else keys, None if bool(mask.all()) else mask)


def attend_by_tiles(q_BHLK: Tensor, k_BGLK: Tensor, v_BGLK: Tensor, tiles: tuple[Tile, ...], kernel: Kernel) -> Tensor:
    """Attention tile by tile; `kernel` takes queries, keys, values and a mask. Returns `[B, H, L, K]`."""
    return _ByTiles.apply(q_BHLK, k_BGLK, v_BGLK, tiles, kernel)  # type: ignore[no-any-return]


class _ByTiles(torch.autograd.Function):
    """The backward pass computes each tile again: kept, the keys of all tiles would be several times all keys."""

    @staticmethod
    @custom_fwd(device_type="cpu")
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, tiles: tuple[Tile, ...], kernel: Kernel) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.tiles, ctx.kernel = tiles, kernel
        out = None
        for tile in tiles:
            part = kernel(*_taken(q, k, v, tile), tile.mask)
            out = part.new_empty(q.shape) if out is None else out
            out[:, :, tile.rows] = part
        assert out is not None, "there is at least one tile"
        return out

    @staticmethod
    @custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        q, k, v = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for tile in ctx.tiles:
            taken = [part.detach().requires_grad_() for part in _taken(q, k, v, tile)]
            with torch.enable_grad():
                out = ctx.kernel(*taken, tile.mask)
            dq[:, :, tile.rows], of_keys, of_values = torch.autograd.grad(out, taken, gradient[:, :, tile.rows])
            dk[:, :, tile.keys] += of_keys
            dv[:, :, tile.keys] += of_values
        return dq, dk, dv, None, None


def _taken(q: Tensor, k: Tensor, v: Tensor, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
    return q[:, :, tile.rows], k[:, :, tile.keys], v[:, :, tile.keys]


def block_mask(seen: Pattern, columns: Tensor, rule: Callable[..., Tensor]) -> Any:
    """The same tiles as flex_attention takes them; waits for no device.

    Args:
        seen, columns: as in `tiles_of`. rule: `(row, head, query, key) -> bool`, one pair of the same pattern.
    """
    from torch.nn.attention.flex_attention import BlockMask

    length = len(columns)
    padded = -(-length // TILE) * TILE
    some, all_ = [], []
    for start in range(0, length, TILE):
        seen_BQK = seen(columns[start : start + TILE][None])
        assert seen_BQK is not None, "a pattern of tiles hides something"
        tiles_BQNT = F.pad(seen_BQK, (0, padded - length)).unflatten(2, (-1, TILE))
        some.append(tiles_BQNT.any(dim=3).any(dim=1))
        all_.append(tiles_BQNT.all(dim=3).all(dim=1))
    some_BNN, all_BNN = torch.stack(some, dim=1)[:, None], torch.stack(all_, dim=1)[:, None]
    return BlockMask.from_kv_blocks(
        *_listed(some_BNN & ~all_BNN), *_listed(all_BNN), BLOCK_SIZE=TILE, mask_mod=rule, seq_lengths=(length, length)
    )


def _listed(chosen_BNN: Tensor) -> tuple[Tensor, Tensor]:
    """How many tiles of keys each tile of queries has, and which, those first."""
    order = chosen_BNN.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return chosen_BNN.sum(-1).to(torch.int32), order.to(torch.int32)


@cache
def _flex(*form: Any) -> Any:
    """flex_attention, compiled: uncompiled it would make the whole square.

    A form (heads, width, type, learned or not) has code of its own, since PyTorch counts graphs by code: one pattern
    takes up to four, for rows and tiles of which it thinks the numbers are the same, and after eight it would no longer
    compile.
    """
    del form
    return torch.compile(FunctionType(_flexed.__code__.replace(), globals(), _flexed.__name__), dynamic=True)


def _flexed(q: Tensor, k: Tensor, v: Tensor, mask: Any, grouped: bool) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(q, k, v, block_mask=mask, enable_gqa=grouped)  # type: ignore[no-any-return]


def attend_by_flex(q_BHLK: Tensor, k_BGLK: Tensor, v_BGLK: Tensor, mask: Any) -> Tensor:
    """Attention under a `block_mask`, on a GPU. Returns `[B, H, L, K]`."""
    grouped = q_BHLK.shape[1] != k_BGLK.shape[1]
    # mixed precision does not reach into it, and norms of queries and keys return float32
    q_BHLK, k_BGLK = q_BHLK.to(v_BGLK.dtype), k_BGLK.to(v_BGLK.dtype)
    width = q_BHLK.shape[-1]
    if width < _NARROW:
        # zeros beside each head; queries grow by what the greater width takes from the scores
        more = (0, _NARROW - width)
        q_BHLK = F.pad(q_BHLK * (_NARROW / width) ** 0.5, more)
        k_BGLK, v_BGLK = F.pad(k_BGLK, more), F.pad(v_BGLK, more)
    learned = torch.is_grad_enabled() and q_BHLK.requires_grad
    run = _flex(q_BHLK.shape[1], k_BGLK.shape[1], q_BHLK.shape[3], q_BHLK.dtype, learned)
    return run(q_BHLK, k_BGLK, v_BGLK, mask, grouped)[..., :width]


def spelt_out(rule: Callable[..., Tensor], batch: int, length: int, *, device: torch.device) -> Tensor:
    """All pairs of a rule, bool `[batch, 1, length, length]`, for the definition of attention."""
    row, column = torch.arange(batch, device=device), torch.arange(length, device=device)
    seen = rule(row[:, None, None], row[:1], column[:, None], column)
    return seen.expand(batch, length, length)[:, None]
